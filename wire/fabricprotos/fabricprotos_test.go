// Package fabricprotos holds our message definitions against those of Fabric's own
// npm package @hyperledger/fabric-protos, which its clients use. It has tests only.
package fabricprotos

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"

	"strongroom/wire/commonpb"
	"strongroom/wire/discoverypb"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/gossippb"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/lifecyclepb"
	"strongroom/wire/msppb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
	"strongroom/wire/queryresultpb"
	"strongroom/wire/rwsetpb"
)

// ours are all files of wire/proto.
var ours = []protoreflect.FileDescriptor{
	commonpb.File_common_common_proto,
	commonpb.File_common_configtx_proto,
	commonpb.File_common_configuration_proto,
	commonpb.File_common_policies_proto,
	commonpb.File_msp_msp_principal_proto,
	discoverypb.File_discovery_protocol_proto,
	gatewaypb.File_gateway_gateway_proto,
	gossippb.File_gossip_message_proto,
	kvrwsetpb.File_ledger_kvrwset_proto,
	lifecyclepb.File_peer_lifecycle_proto,
	msppb.File_msp_msp_proto,
	ordererpb.File_orderer_ab_proto,
	ordererpb.File_orderer_configuration_proto,
	peerpb.File_peer_chaincode_proto,
	peerpb.File_peer_chaincode_shim_proto,
	peerpb.File_peer_collection_proto,
	peerpb.File_peer_configuration_proto,
	peerpb.File_peer_events_proto,
	peerpb.File_peer_proposal_proto,
	peerpb.File_peer_transaction_proto,
	queryresultpb.File_ledger_queryresult_proto,
	rwsetpb.File_ledger_rwset_proto,
}

// schema is what schema.js prints.
type schema struct {
	Messages map[string]message           `json:"messages"`
	Enums    map[string]map[string]int32  `json:"enums"`
	Services map[string]map[string]method `json:"services"`
}

type message struct {
	Fields map[string]field `json:"fields"` // by number
	Oneofs json.RawMessage  `json:"oneofs"` // [[number, …], …], or {} for none
}

type field struct {
	Name  string `json:"name"`
	Label string `json:"label"` // optional, repeated or map
	Key   string `json:"key"`   // of a map
	Type  string `json:"type"`
}

type method struct {
	RequestStream  bool   `json:"requestStream"`
	ResponseStream bool   `json:"responseStream"`
	Request        string `json:"request"`
	Response       string `json:"response"`
}

// install puts the npm package into a cache folder that is named after the lock
// file, and returns the package's lib folder.
func install(t *testing.T) string {
	t.Helper()
	for tool, fix := range map[string]string{"node": "install Node.js 18 or later", "npm": "install npm, which comes with Node.js"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is not in PATH: %s; this test compares our messages with Fabric's npm package", tool, fix)
		}
	}
	const lib = "node_modules/@hyperledger/fabric-protos/lib"
	if _, err := os.Stat(lib); err == nil {
		return lib // npm ci was run here
	}
	lock, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir()
	}
	sum := sha256.Sum256(lock)
	dir := filepath.Join(cache, "strongroom", "fabricprotos-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return filepath.Join(dir, lib)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"package.json", "package-lock.json", ".npmrc"} {
		b, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci in %s: %v: make an npm registry reachable, or run `npm ci` in wire/fabricprotos\n%s", dir, err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "complete"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, lib)
}

func readSchema(t *testing.T) *schema {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "node", "schema.js", install(t))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node schema.js: %v\n%s", err, stderr.Bytes())
	}
	s := &schema{}
	if err := json.Unmarshal(out, s); err != nil {
		t.Fatal(err)
	}
	if len(s.Messages) < 200 || len(s.Enums) < 15 || len(s.Services) < 5 {
		t.Fatalf("schema.js finds %d messages, %d enums, %d services: it does not understand the package any more",
			len(s.Messages), len(s.Enums), len(s.Services))
	}
	return s
}

func TestMessagesAreFabrics(t *testing.T) {
	fabric := readSchema(t)
	compared := 0
	for _, file := range ours {
		compared += compareMessages(t, fabric, file.Messages())
		compareEnums(t, fabric, file.Enums())
		for i := range file.Services().Len() {
			compareService(t, fabric, file.Services().Get(i))
		}
	}
	if compared < 150 {
		t.Errorf("only %d messages were compared", compared)
	}
}

func compareMessages(t *testing.T, fabric *schema, messages protoreflect.MessageDescriptors) int {
	compared := 0
	for i := range messages.Len() {
		m := messages.Get(i)
		if m.IsMapEntry() {
			continue
		}
		name := string(m.FullName())
		theirs, ok := fabric.Messages[name]
		if !ok {
			t.Errorf("Fabric has no message %s", name)
			continue
		}
		compared++
		if diff := cmp.Diff(theirs.Fields, fields(m, theirs.Fields)); diff != "" {
			t.Errorf("message %s (-Fabric +ours):\n%s", name, diff)
		}
		if diff := cmp.Diff(theirs.oneofs(t), oneofs(m)); diff != "" {
			t.Errorf("oneofs of message %s (-Fabric +ours):\n%s", name, diff)
		}
		compared += compareMessages(t, fabric, m.Messages())
		compareEnums(t, fabric, m.Enums())
	}
	return compared
}

// fields describes a message's fields as schema.js does. Theirs name types as their
// .proto files do, with or without what is before the last name: a type that is
// meant by their name gets it.
func fields(m protoreflect.MessageDescriptor, theirs map[string]field) map[string]field {
	out := map[string]field{}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		number := strconv.Itoa(int(f.Number()))
		d := field{Name: string(f.Name()), Label: "optional", Type: typeName(f)}
		switch {
		case f.IsMap():
			d.Label, d.Key, d.Type = "map", typeName(f.MapKey()), typeName(f.MapValue())
		case f.IsList():
			d.Label = "repeated"
		}
		if strings.HasSuffix(d.Type, "."+theirs[number].Type) {
			d.Type = theirs[number].Type
		}
		out[number] = d
	}
	return out
}

func typeName(f protoreflect.FieldDescriptor) string {
	switch {
	case f.Message() != nil:
		return string(f.Message().FullName())
	case f.Enum() != nil:
		return string(f.Enum().FullName())
	}
	return f.Kind().String()
}

func lastName(name protoreflect.FullName) string { return string(name.Name()) }

// oneofs lists the numbers of each oneof's fields, sorted.
func oneofs(m protoreflect.MessageDescriptor) []string {
	var out []string
	for i := range m.Oneofs().Len() {
		var numbers []int
		for j := range m.Oneofs().Get(i).Fields().Len() {
			numbers = append(numbers, int(m.Oneofs().Get(i).Fields().Get(j).Number()))
		}
		slices.Sort(numbers)
		out = append(out, fmt.Sprint(numbers))
	}
	slices.Sort(out)
	return out
}

func (m message) oneofs(t *testing.T) []string {
	var groups [][]int
	if len(m.Oneofs) > 0 && m.Oneofs[0] == '[' {
		if err := json.Unmarshal(m.Oneofs, &groups); err != nil {
			t.Fatal(err)
		}
	}
	var out []string
	for _, g := range groups {
		slices.Sort(g)
		out = append(out, fmt.Sprint(g))
	}
	slices.Sort(out)
	return out
}

func compareEnums(t *testing.T, fabric *schema, enums protoreflect.EnumDescriptors) {
	for i := range enums.Len() {
		e := enums.Get(i)
		values := map[string]int32{}
		for j := range e.Values().Len() {
			values[string(e.Values().Get(j).Name())] = int32(e.Values().Get(j).Number())
		}
		if diff := cmp.Diff(fabric.Enums[string(e.FullName())], values); diff != "" {
			t.Errorf("enum %s (-Fabric +ours):\n%s", e.FullName(), diff)
		}
	}
}

func compareService(t *testing.T, fabric *schema, s protoreflect.ServiceDescriptor) {
	methods := map[string]method{}
	for i := range s.Methods().Len() {
		m := s.Methods().Get(i)
		methods[string(m.Name())] = method{
			RequestStream: m.IsStreamingClient(), ResponseStream: m.IsStreamingServer(),
			Request: lastName(m.Input().FullName()), Response: lastName(m.Output().FullName()),
		}
	}
	if diff := cmp.Diff(fabric.Services[string(s.FullName())], methods); diff != "" {
		t.Errorf("service %s (-Fabric +ours):\n%s", s.FullName(), diff)
	}
}
