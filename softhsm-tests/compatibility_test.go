package softhsmtests

import (
	"context"
	"errors"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"strongroom/appliance/config"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// row is one line of a table of docs/compatibility.md.
type row struct{ section, name, claim string }

// refusal is the text that a row says a call is refused with, "" if it works.
func (r row) refusal(t *testing.T) string {
	t.Helper()
	if strings.HasPrefix(r.claim, "works") {
		return ""
	}
	m := regexp.MustCompile(`^refused: "([^"]+)"`).FindStringSubmatch(r.claim)
	if m == nil {
		t.Fatalf("%s: the claim %q is neither works nor refused with a text", r.name, r.claim)
	}
	return m[1]
}

// compatibility reads the tables, whose cells hold code spans and words.
func compatibility(t *testing.T) []row {
	t.Helper()
	text, err := os.ReadFile("../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []row
	section := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if heading, ok := strings.CutPrefix(line, "#"); ok {
			section = strings.Trim(heading, "# ")
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "| `") || len(cells) != 2 {
			continue
		}
		rows = append(rows, row{section, strings.TrimSpace(cells[0]), strings.TrimSpace(cells[1])})
	}
	return rows
}

// TestCompatibility holds the tables of docs/compatibility.md to a running network.
func TestCompatibility(t *testing.T) {
	n := start(t)
	u := n.dialUser(t, "org1")
	admin := n.fabricAdmin(t, "org1")
	nodes := map[string]*grpc.ClientConn{"Peer": u.conn, "Ordering node": n.dialOrderer(t)}
	checked := map[string]int{}
	for _, r := range compatibility(t) {
		checked[r.section]++
		name := strings.Trim(r.name, "`")
		switch r.section {
		case "Peer", "Ordering node":
			checkMethod(t, nodes[r.section], name, r.refusal(t))
		case "System chaincodes":
			checkFunction(t, admin, name, r.refusal(t))
		case "Commands":
			if r.claim == "works" && !slices.Contains(commandsSent, name) {
				t.Errorf("%s works, says the table, and TestFabricCLI does not send it", name)
			}
		case "core.yaml", "orderer.yaml":
			checkKeys(t, r)
		default:
			t.Errorf("%s stands in a section that is not checked: %q", name, r.section)
		}
	}
	for section, least := range map[string]int{"Peer": 19, "Ordering node": 9, "System chaincodes": 23, "Commands": 20, "core.yaml": 40, "orderer.yaml": 15} {
		if checked[section] < least {
			t.Errorf("section %s has %d rows, want %d", section, checked[section], least)
		}
	}
}

// commandsSent are the commands whose messages TestFabricCLI sends.
var commandsSent = []string{
	"peer channel list", "peer channel getinfo", "peer channel fetch", "peer channel join",
	"peer lifecycle chaincode install", "peer lifecycle chaincode queryinstalled", "peer lifecycle chaincode getinstalledpackage",
	"peer lifecycle chaincode approveformyorg", "peer lifecycle chaincode queryapproved", "peer lifecycle chaincode checkcommitreadiness",
	"peer lifecycle chaincode commit", "peer lifecycle chaincode querycommitted", "peer chaincode invoke", "peer chaincode query",
}

// checkMethod calls a method with an empty message: what is offered answers somehow, and
// what is not says so.
func checkMethod(t *testing.T, conn *grpc.ClientConn, method, refusal string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/"+method)
	if err == nil {
		err = errors.Join(stream.SendMsg(&emptypb.Empty{}), stream.CloseSend())
	}
	if err == nil {
		err = stream.RecvMsg(&emptypb.Empty{})
	}
	got := status.Convert(err)
	switch {
	case refusal == "" && got.Code() == codes.Unimplemented:
		t.Errorf("%s works, says the table: %v", method, err)
	case refusal != "" && (got.Code() != codes.Unimplemented || !strings.Contains(got.Message(), refusal)):
		t.Errorf("%s is refused with %q, says the table: %v", method, refusal, err)
	}
}

// notThere is how system chaincodes say that they have no such function.
var notThere = regexp.MustCompile(`(?i)requested function|not offered|chaincode \S+ not found|unknown (lifecycle )?function|not supported|does not exist`)

// checkFunction calls a function of a system chaincode with an argument that is none of its own.
func checkFunction(t *testing.T, admin *fabricCLI, name, refusal string) {
	t.Helper()
	chaincode, function, _ := strings.Cut(name, ".")
	channel := "main"
	if strings.Contains(function, "Install") || chaincode == "cscc" {
		channel = ""
	}
	_, signed, _ := admin.proposal(commonpb.HeaderType_ENDORSER_TRANSACTION, channel, chaincode, peerpb.ChaincodeSpec_GOLANG, []byte(function), []byte("none"))
	r, err := peerpb.NewEndorserClient(admin.conn).ProcessProposal(t.Context(), signed)
	said := r.GetResponse().GetMessage()
	if err != nil {
		said = err.Error()
	}
	if refusal == "" && notThere.MatchString(said) || refusal != "" && !strings.Contains(said, refusal) {
		t.Errorf("%s answers %q, the table says %q", name, said, refusal)
	}
}

// checkKeys looks for the configuration values that a row names.
func checkKeys(t *testing.T, r row) {
	t.Helper()
	known := map[string]bool{}
	for _, c := range []any{config.Peer{}, config.Orderer{}} {
		keys(reflect.TypeOf(c), "", known)
	}
	for _, m := range regexp.MustCompile("`([a-z][A-Za-z]*(?:\\.[A-Za-z]+)*)`").FindAllStringSubmatch(r.claim, -1) {
		if name := m[1]; !known[name] && !slices.Contains([]string{"cscc", "qscc"}, name) {
			t.Errorf("%s: there is no configuration value %s", r.name, name)
		}
	}
}

func keys(c reflect.Type, prefix string, known map[string]bool) {
	for i := range c.NumField() {
		name := strings.Split(c.Field(i).Tag.Get("yaml"), ",")[0]
		known[prefix+name] = true
		if f := c.Field(i).Type; f.Kind() == reflect.Struct {
			keys(f, prefix+name+".", known)
		}
	}
}
