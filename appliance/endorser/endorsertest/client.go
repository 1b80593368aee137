package endorsertest

import (
	"context"
	"crypto/rand"
	"net"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strongroom/bccsp/bccsptest"
	"strongroom/chaincode/ccpackage"
	"strongroom/chaincode/shim"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/lifecyclepb"
	"strongroom/wire/peerpb"
)

// Marshal is a message's deterministic bytes.
func Marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Call says what a proposal is to call.
type Call struct {
	Channel   string // "" for none
	Chaincode string
	Args      [][]byte
	Transient map[string][]byte
	IsInit    bool
}

// Propose makes a proposal, signed by the client in the token.
func Propose(t testing.TB, by *bccsptest.Identity, call Call) *peerpb.SignedProposal {
	t.Helper()
	nonce := make([]byte, 24)
	rand.Read(nonce) // never fails
	creator := by.Serialized()
	id := &peerpb.ChaincodeID{Name: call.Chaincode}
	header := &commonpb.Header{
		ChannelHeader: Marshal(t, &commonpb.ChannelHeader{
			Type: int32(commonpb.HeaderType_ENDORSER_TRANSACTION), Timestamp: timestamppb.Now(), ChannelId: call.Channel,
			TxId: wire.TxID(nonce, creator), Extension: Marshal(t, &peerpb.ChaincodeHeaderExtension{ChaincodeId: id}),
		}),
		SignatureHeader: Marshal(t, &commonpb.SignatureHeader{Creator: creator, Nonce: nonce}),
	}
	input := Marshal(t, &peerpb.ChaincodeInvocationSpec{ChaincodeSpec: &peerpb.ChaincodeSpec{
		Type: peerpb.ChaincodeSpec_GOLANG, ChaincodeId: id, Input: &peerpb.ChaincodeInput{Args: call.Args, IsInit: call.IsInit},
	}})
	raw := Marshal(t, &peerpb.Proposal{Header: Marshal(t, header), Payload: Marshal(t, &peerpb.ChaincodeProposalPayload{Input: input, TransientMap: call.Transient})})
	signature, err := by.Signer.SignProposal(context.Background(), raw)
	if err != nil {
		t.Fatal(err)
	}
	return &peerpb.SignedProposal{ProposalBytes: raw, Signature: signature}
}

// Args makes arguments of strings.
func Args(args ...string) [][]byte {
	out := make([][]byte, len(args))
	for i, a := range args {
		out[i] = []byte(a)
	}
	return out
}

// TxID is the transaction id of a proposal.
func TxID(t testing.TB, p *peerpb.SignedProposal) string {
	t.Helper()
	parsed, err := wire.ParseSignedProposal(p)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.TxID()
}

// Endorse asks a peer over gRPC and fails the test if it does not endorse.
func (p *Peer) Endorse(t testing.TB, proposal *peerpb.SignedProposal) *peerpb.ProposalResponse {
	t.Helper()
	resp, err := peerpb.NewEndorserClient(p.Conn).ProcessProposal(t.Context(), proposal)
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetEndorsement() == nil {
		t.Fatalf("%s did not endorse: %v", p.MSPID, resp.GetResponse())
	}
	return resp
}

// Query asks a peer over gRPC and returns its response.
func (p *Peer) Query(t testing.TB, by *bccsptest.Identity, call Call) *peerpb.Response {
	t.Helper()
	resp, err := peerpb.NewEndorserClient(p.Conn).ProcessProposal(t.Context(), Propose(t, by, call))
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetResponse()
}

// Sign signs a transaction's payload as its creator.
func Sign(t testing.TB, by *bccsptest.Identity, payload []byte) *commonpb.Envelope {
	t.Helper()
	signature, err := by.Signer.SignPayload(context.Background(), payload)
	if err != nil {
		t.Fatal(err)
	}
	return &commonpb.Envelope{Payload: payload, Signature: signature}
}

// Submit has the peers endorse a proposal, orders the transaction and waits until
// all peers have committed it. It returns its validation code.
func (n *Network) Submit(t testing.TB, by *bccsptest.Identity, call Call, peers ...*Peer) peerpb.TxValidationCode {
	t.Helper()
	return n.SubmitSigned(t, by, Propose(t, by, call), peers...)
}

// SubmitSigned is Submit for a proposal that is made already.
func (n *Network) SubmitSigned(t testing.TB, by *bccsptest.Identity, signed *peerpb.SignedProposal, peers ...*Peer) peerpb.TxValidationCode {
	t.Helper()
	proposal, err := wire.ParseSignedProposal(signed)
	if err != nil {
		t.Fatal(err)
	}
	action := &peerpb.ChaincodeEndorsedAction{}
	for _, p := range peers {
		resp := p.Endorse(t, signed)
		action.ProposalResponsePayload = resp.GetPayload()
		action.Endorsements = append(action.Endorsements, resp.GetEndorsement())
	}
	header := &commonpb.Header{}
	if err := proto.Unmarshal(proposal.Header, header); err != nil {
		t.Fatal(err)
	}
	tx := &peerpb.Transaction{Actions: []*peerpb.TransactionAction{{
		Header:  header.GetSignatureHeader(),
		Payload: Marshal(t, &peerpb.ChaincodeActionPayload{ChaincodeProposalPayload: proposal.PayloadNoTransient, Action: action}),
	}}}
	env := Sign(t, by, Marshal(t, &commonpb.Payload{Header: header, Data: Marshal(t, tx)}))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := n.Orderer.Broadcast(ctx, env); err != nil {
		t.Fatal(err)
	}
	return n.Await(t, proposal.TxID())
}

// Await waits until all peers have committed a transaction.
func (n *Network) Await(t testing.TB, txID string) (code peerpb.TxValidationCode) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, p := range n.Peers {
		var err error
		if code, _, err = p.Channel.AwaitTx(ctx, txID); err != nil {
			t.Fatalf("%s: transaction %s: %v", p.MSPID, txID, err)
		}
	}
	return code
}

// kv is the chaincode that Deploy runs: put KEY VALUE, get KEY, event NAME PAYLOAD.
type kv struct{}

func (kv) Init(*shim.Stub) shim.Response { return shim.Success(nil) }

func (kv) Invoke(stub *shim.Stub) shim.Response {
	function, args := stub.GetFunctionAndParameters()
	switch {
	case function == "put" && len(args) == 2:
		if err := stub.PutState(args[0], []byte(args[1])); err != nil {
			return shim.Error(err.Error())
		}
		return shim.Success([]byte("put " + args[0]))
	case function == "get" && len(args) == 1:
		value, err := stub.GetState(args[0])
		if err != nil {
			return shim.Error(err.Error())
		}
		return shim.Success(value)
	case function == "event" && len(args) == 2:
		if err := stub.SetEvent(args[0], []byte(args[1])); err != nil {
			return shim.Error(err.Error())
		}
		return shim.Success(nil)
	case function == "call" && len(args) > 1:
		return stub.InvokeChaincode(args[0], Args(args[1:]...), "")
	case function == "refuse":
		return shim.Response{Status: 404, Message: "refused as asked"}
	}
	return shim.Error("unknown function " + function)
}

// Package runs the chaincode as a service and makes a package that points to it and
// has an index, assets/owner.
func Package(t testing.TB, label string) (id string, pkg []byte) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pkg, err = ccpackage.WriteIndexed(label, ccpackage.Connection{Address: lis.Addr().String()},
		map[string][]byte{"owner.json": []byte(`{"index":{"fields":["owner","size"]},"ddoc":"assets","name":"owner"}`)})
	if err != nil {
		t.Fatal(err)
	}
	id = ccpackage.ID(label, pkg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- shim.Serve(ctx, kv{}, shim.Config{Listener: lis, PackageID: id}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return id, pkg
}

// Lifecycle makes a call of `_lifecycle`.
func Lifecycle(t testing.TB, channelID, function string, args proto.Message) Call {
	t.Helper()
	return Call{Channel: channelID, Chaincode: "_lifecycle", Args: [][]byte{[]byte(function), Marshal(t, args)}}
}

// Deploy installs the chaincode on all peers, has all organisations approve it and
// commits its definition with the channel's default endorsement policy.
func (n *Network) Deploy(t testing.TB, name string) (packageID string) {
	t.Helper()
	return n.DeployValidated(t, name, "", nil)
}

// DeployValidated is Deploy with a validation plugin and its parameter.
func (n *Network) DeployValidated(t testing.TB, name, plugin string, parameter []byte) (packageID string) {
	t.Helper()
	id, pkg := Package(t, name+"_1.0")
	for _, p := range n.Peers {
		resp := p.Query(t, p.Admin, Lifecycle(t, "", "InstallChaincode", &lifecyclepb.InstallChaincodeArgs{ChaincodeInstallPackage: pkg}))
		if resp.GetStatus() != 200 {
			t.Fatalf("install at %s: %v", p.MSPID, resp)
		}
		approve := &lifecyclepb.ApproveChaincodeDefinitionForMyOrgArgs{
			Sequence: 1, Name: name, Version: "1.0", ValidationPlugin: plugin, ValidationParameter: parameter,
			Source: &lifecyclepb.ChaincodeSource{Type: &lifecyclepb.ChaincodeSource_LocalPackage{LocalPackage: &lifecyclepb.ChaincodeSource_Local{PackageId: id}}},
		}
		if code := n.Submit(t, p.Admin, Lifecycle(t, ChannelID, "ApproveChaincodeDefinitionForMyOrg", approve), p); code != peerpb.TxValidationCode_VALID {
			t.Fatalf("approval of %s is %s", p.MSPID, code)
		}
	}
	commit := &lifecyclepb.CommitChaincodeDefinitionArgs{Sequence: 1, Name: name, Version: "1.0", ValidationPlugin: plugin, ValidationParameter: parameter}
	if code := n.Submit(t, n.Peers[0].Admin, Lifecycle(t, ChannelID, "CommitChaincodeDefinition", commit), n.Peers...); code != peerpb.TxValidationCode_VALID {
		t.Fatalf("commit of the definition is %s", code)
	}
	return id
}
