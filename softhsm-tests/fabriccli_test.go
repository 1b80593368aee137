package softhsmtests

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strongroom/bccsp"
	"strongroom/chaincode/shim"
	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/lifecyclepb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

// fabricCLI sends what Fabric's command `peer` sends, message by message, built here
// a second time from Fabric's own messages: internal/peer/{channel,chaincode,lifecycle}
// and protoutil at version 3.1. The command itself is not needed.
type fabricCLI struct {
	t        *testing.T
	identity *msp.LocalIdentity
	conn     *grpc.ClientConn // to the peer
}

// fabricAdmin is an administrator of an organisation whose key is in a file, as the
// CLI's are (CORE_PEER_MSPCONFIGPATH), connected to the organisation's peer.
func (n network) fabricAdmin(t *testing.T, org string) *fabricCLI {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	dir, home := t.TempDir(), filepath.Join(n.dir, org)
	public, certificate := filepath.Join(dir, "admin.pub"), filepath.Join(dir, "admin.pem")
	if err := os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), 0o600); err != nil {
		t.Fatal(err)
	}
	n.run(t, "ca", "issue", "--key", "ca", "--certificate", filepath.Join(home, "msp/cacerts/ca.pem"), "--public-key", public,
		"--name", "cli."+org, "--profile", "admin", "--out", certificate, "--module", n.module(t, org),
		"--softhsm-conf", filepath.Join(home, "softhsm2.conf"), "--token", org+"-ca", "--pin-file", filepath.Join(home, org+"-ca.pin"))
	chain, err := os.ReadFile(certificate)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := bccsp.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	u := n.dialUser(t, org)
	identity, err := msp.LoadLocalIdentity(u.identity.MSPID, chain, bccsp.NewSigner(userKey{key, pub}))
	if err != nil {
		t.Fatal(err)
	}
	return &fabricCLI{t: t, identity: identity, conn: u.conn}
}

// module is the PKCS#11 module that the network's configurations name.
func (n network) module(t *testing.T, org string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(n.dir, org, "admin.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "module: "); ok {
			return strings.TrimSpace(path)
		}
	}
	t.Fatal("admin.yaml names no module")
	return ""
}

func (c *fabricCLI) marshal(m proto.Message) []byte {
	c.t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c *fabricCLI) nonce() []byte {
	nonce := make([]byte, 24)
	rand.Read(nonce) // never fails
	return nonce
}

// proposal is protoutil.CreateChaincodeProposalWithTxIDNonceAndTransient, signed as
// protoutil.GetSignedProposal does.
func (c *fabricCLI) proposal(kind commonpb.HeaderType, channel, chaincode string, language peerpb.ChaincodeSpec_Type, args ...[]byte) (*peerpb.Proposal, *peerpb.SignedProposal, string) {
	c.t.Helper()
	nonce := c.nonce()
	txID := wire.TxID(nonce, c.identity.Serialized)
	spec := &peerpb.ChaincodeInvocationSpec{ChaincodeSpec: &peerpb.ChaincodeSpec{
		Type: language, ChaincodeId: &peerpb.ChaincodeID{Name: chaincode}, Input: &peerpb.ChaincodeInput{Args: args},
	}}
	now := timestamppb.Now()
	p := &peerpb.Proposal{
		Header: c.marshal(&commonpb.Header{
			ChannelHeader: c.marshal(&commonpb.ChannelHeader{
				Type: int32(kind), TxId: txID, Timestamp: &timestamppb.Timestamp{Seconds: now.Seconds}, ChannelId: channel, Epoch: 0,
				Extension: c.marshal(&peerpb.ChaincodeHeaderExtension{ChaincodeId: spec.ChaincodeSpec.ChaincodeId}),
			}),
			SignatureHeader: c.marshal(&commonpb.SignatureHeader{Nonce: nonce, Creator: c.identity.Serialized}),
		}),
		Payload: c.marshal(&peerpb.ChaincodeProposalPayload{Input: c.marshal(spec), TransientMap: nil}),
	}
	raw := c.marshal(p)
	signature, err := c.identity.SignProposal(c.t.Context(), raw)
	if err != nil {
		c.t.Fatal(err)
	}
	return p, &peerpb.SignedProposal{ProposalBytes: raw, Signature: signature}, txID
}

// query sends a proposal that is not submitted and returns its response's payload.
func (c *fabricCLI) query(kind commonpb.HeaderType, channel, chaincode string, args ...[]byte) []byte {
	c.t.Helper()
	r := c.process(kind, channel, chaincode, args...)
	if r.GetStatus() != 200 {
		c.t.Fatalf("%s %s: status %d, %q", chaincode, args[0], r.GetStatus(), r.GetMessage())
	}
	return r.GetPayload()
}

func (c *fabricCLI) process(kind commonpb.HeaderType, channel, chaincode string, args ...[]byte) *peerpb.Response {
	c.t.Helper()
	_, signed, _ := c.proposal(kind, channel, chaincode, peerpb.ChaincodeSpec_GOLANG, args...)
	r, err := peerpb.NewEndorserClient(c.conn).ProcessProposal(c.t.Context(), signed)
	if err != nil {
		c.t.Fatalf("%s %s: %v", chaincode, args[0], err)
	}
	return r.GetResponse()
}

// lifecycle is a query of `_lifecycle`, whose spec has no type in the CLI.
func (c *fabricCLI) lifecycle(channel, function string, args, result proto.Message) {
	c.t.Helper()
	_, signed, _ := c.proposal(commonpb.HeaderType_ENDORSER_TRANSACTION, channel, "_lifecycle", peerpb.ChaincodeSpec_UNDEFINED, []byte(function), c.marshal(args))
	r, err := peerpb.NewEndorserClient(c.conn).ProcessProposal(c.t.Context(), signed)
	if err != nil || r.GetResponse().GetStatus() != 200 {
		c.t.Fatalf("%s: %v, %v", function, r.GetResponse(), err)
	}
	if err := proto.Unmarshal(r.GetResponse().GetPayload(), result); err != nil {
		c.t.Fatal(err)
	}
}

// seek is protoutil.CreateSignedEnvelopeWithTLSBinding for a deliver request of a
// client without a TLS certificate.
func (c *fabricCLI) seek(channel string, info *ordererpb.SeekInfo) *commonpb.Envelope {
	c.t.Helper()
	payload := c.marshal(&commonpb.Payload{
		Header: &commonpb.Header{
			ChannelHeader: c.marshal(&commonpb.ChannelHeader{
				Type: int32(commonpb.HeaderType_DELIVER_SEEK_INFO), Version: 0, Timestamp: timestamppb.Now(), ChannelId: channel, Epoch: 0, TlsCertHash: nil,
			}),
			SignatureHeader: c.marshal(&commonpb.SignatureHeader{Creator: c.identity.Serialized, Nonce: c.nonce()}),
		},
		Data: c.marshal(info),
	})
	signature, err := c.identity.SignPayload(c.t.Context(), payload)
	if err != nil {
		c.t.Fatal(err)
	}
	return &commonpb.Envelope{Payload: payload, Signature: signature}
}

func specified(number uint64) *ordererpb.SeekPosition {
	return &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Specified{Specified: &ordererpb.SeekSpecified{Number: number}}}
}

var (
	newest = &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Newest{Newest: &ordererpb.SeekNewest{}}}
	oldest = &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Oldest{Oldest: &ordererpb.SeekOldest{}}}
)

// fetch is `peer channel fetch` from the peer: one block.
func (c *fabricCLI) fetch(channel string, at *ordererpb.SeekPosition) *commonpb.Block {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	stream, err := peerpb.NewDeliverClient(c.conn).Deliver(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := stream.Send(c.seek(channel, &ordererpb.SeekInfo{Start: at, Stop: at, Behavior: ordererpb.SeekInfo_BLOCK_UNTIL_READY})); err != nil {
		c.t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil || r.GetBlock() == nil {
		c.t.Fatalf("fetch: %v, %v", r, err)
	}
	b := r.GetBlock()
	if r, err = stream.Recv(); err != nil || r.GetStatus() != commonpb.Status_SUCCESS {
		c.t.Fatalf("the end of fetch: %v, %v", r, err)
	}
	return b
}

// submit is `peer chaincode invoke --waitForEvent` and the lifecycle commands that
// submit: endorse at the peers, sign (protoutil.CreateSignedTx), listen on
// DeliverFiltered of each peer, broadcast, wait for the transaction.
func (c *fabricCLI) submit(n network, peers []*fabricCLI, channel, chaincode string, language peerpb.ChaincodeSpec_Type, args ...[]byte) *peerpb.Response {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	p, signed, txID := c.proposal(commonpb.HeaderType_ENDORSER_TRANSACTION, channel, chaincode, language, args...)
	action := &peerpb.ChaincodeEndorsedAction{}
	var response *peerpb.Response
	var listeners []peerpb.Deliver_DeliverFilteredClient
	for i, at := range peers {
		r, err := peerpb.NewEndorserClient(at.conn).ProcessProposal(ctx, signed)
		if err != nil || r.GetResponse().GetStatus() < 200 || r.GetResponse().GetStatus() >= 400 {
			c.t.Fatalf("%s %s: %v, %v", chaincode, args[0], r.GetResponse(), err)
		}
		if i > 0 && !bytes.Equal(action.ProposalResponsePayload, r.GetPayload()) {
			c.t.Fatal("ProposalResponsePayloads do not match")
		}
		action.ProposalResponsePayload, response = r.GetPayload(), r.GetResponse()
		action.Endorsements = append(action.Endorsements, r.GetEndorsement())
		l, err := peerpb.NewDeliverClient(at.conn).DeliverFiltered(ctx)
		if err != nil {
			c.t.Fatal(err)
		}
		if err := l.Send(c.seek(channel, &ordererpb.SeekInfo{Start: newest, Stop: specified(math.MaxUint64), Behavior: ordererpb.SeekInfo_BLOCK_UNTIL_READY})); err != nil {
			c.t.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	header, payload := &commonpb.Header{}, &peerpb.ChaincodeProposalPayload{}
	if err := proto.Unmarshal(p.GetHeader(), header); err != nil {
		c.t.Fatal(err)
	}
	if err := proto.Unmarshal(p.GetPayload(), payload); err != nil {
		c.t.Fatal(err)
	}
	tx := &peerpb.Transaction{Actions: []*peerpb.TransactionAction{{
		Header: header.GetSignatureHeader(),
		Payload: c.marshal(&peerpb.ChaincodeActionPayload{
			ChaincodeProposalPayload: c.marshal(&peerpb.ChaincodeProposalPayload{Input: payload.GetInput()}), Action: action,
		}),
	}}}
	env := &commonpb.Envelope{Payload: c.marshal(&commonpb.Payload{Header: header, Data: c.marshal(tx)})}
	var err error
	if env.Signature, err = c.identity.SignPayload(ctx, env.Payload); err != nil {
		c.t.Fatal(err)
	}
	orderer, err := ordererpb.NewAtomicBroadcastClient(n.dialOrderer(c.t)).Broadcast(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := orderer.Send(env); err != nil {
		c.t.Fatal(err)
	}
	if r, err := orderer.Recv(); err != nil || r.GetStatus() != commonpb.Status_SUCCESS {
		c.t.Fatalf("broadcast: %v, %v", r, err)
	}
	for _, l := range listeners {
		c.await(l, txID)
	}
	return response
}

func (c *fabricCLI) await(l peerpb.Deliver_DeliverFilteredClient, txID string) {
	c.t.Helper()
	for {
		r, err := l.Recv()
		if err != nil || r.GetFilteredBlock() == nil {
			c.t.Fatalf("waiting for %s: %v, %v", txID, r, err)
		}
		for _, tx := range r.GetFilteredBlock().GetFilteredTransactions() {
			if tx.GetTxid() != txID {
				continue
			}
			if tx.GetTxValidationCode() != peerpb.TxValidationCode_VALID {
				c.t.Fatalf("transaction %s is %s", txID, tx.GetTxValidationCode())
			}
			return
		}
	}
}

// archive is what tar makes of files: `tar cfz`.
func archive(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	w := tar.NewWriter(zip)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: files[i], Mode: 0o644, Uid: 1000, Gid: 1000, Uname: "dev", Gname: "dev", ModTime: time.Now(), Size: int64(len(files[i+1]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// counter is the chaincode that the CLI deploys.
type counter struct{}

func (counter) Init(*shim.Stub) shim.Response { return shim.Success(nil) }

func (counter) Invoke(stub *shim.Stub) shim.Response {
	function, args := stub.GetFunctionAndParameters()
	switch {
	case function == "put" && len(args) == 2:
		if err := stub.PutState(args[0], []byte(args[1])); err != nil {
			return shim.Error(err.Error())
		}
		return shim.Success([]byte("kept"))
	case function == "get" && len(args) == 1:
		value, err := stub.GetState(args[0])
		if err != nil {
			return shim.Error(err.Error())
		}
		return shim.Success(value)
	}
	return shim.Error("unknown function " + function)
}

// TestFabricCLI goes through the commands of Fabric's `peer` that an administrator
// uses, from package to query.
func TestFabricCLI(t *testing.T) {
	n := start(t)
	one, two := n.fabricAdmin(t, "org1"), n.fabricAdmin(t, "org2")
	const endorser, config = commonpb.HeaderType_ENDORSER_TRANSACTION, commonpb.HeaderType_CONFIG
	parse := func(b []byte, into proto.Message) {
		t.Helper()
		if err := proto.Unmarshal(b, into); err != nil {
			t.Fatal(err)
		}
	}

	// peer channel list, getinfo, fetch, join
	channels := &peerpb.ChannelQueryResponse{}
	parse(one.query(endorser, "", "cscc", []byte("GetChannels")), channels)
	if len(channels.GetChannels()) != 1 || channels.GetChannels()[0].GetChannelId() != "main" {
		t.Errorf("channel list: %v", channels)
	}
	info := &commonpb.BlockchainInfo{}
	parse(one.query(endorser, "", "qscc", []byte("GetChainInfo"), []byte("main")), info)
	first, last := one.fetch("main", oldest), one.fetch("main", specified(info.GetHeight()-1))
	if !bytes.Equal(wire.BlockHash(last.GetHeader()), info.GetCurrentBlockHash()) || last.GetHeader().GetNumber()+1 != info.GetHeight() {
		t.Errorf("getinfo says %v, fetch gives block %d", info, last.GetHeader().GetNumber())
	}
	if b := one.fetch("main", newest); b.GetHeader().GetNumber() < last.GetHeader().GetNumber() {
		t.Errorf("fetch newest gives block %d", b.GetHeader().GetNumber())
	}
	// fetch config: the newest block names the last configuration block.
	signatures, named := &commonpb.Metadata{}, &commonpb.OrdererBlockMetadata{}
	parse(last.GetMetadata().GetMetadata()[commonpb.BlockMetadataIndex_SIGNATURES], signatures)
	parse(signatures.GetValue(), named)
	if b := one.fetch("main", specified(named.GetLastConfig().GetIndex())); !proto.Equal(b.GetHeader(), first.GetHeader()) {
		t.Errorf("fetch config gives block %d", b.GetHeader().GetNumber())
	}
	if r := one.process(config, "", "cscc", []byte("JoinChain"), one.marshal(first)); r.GetStatus() != 500 || !strings.Contains(r.GetMessage(), "ledger [main] already exists") {
		t.Errorf("join a second time: %v", r)
	}

	// peer lifecycle chaincode install, queryinstalled, getinstalledpackage
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	label := "cli_" + strings.ToLower(rand.Text()[:8])
	name := label
	code := archive(t, "connection.json", fmt.Sprintf(`{"address": %q, "dial_timeout": "10s", "tls_required": false}`, lis.Addr()))
	pkg := archive(t, "metadata.json", fmt.Sprintf(`{"path":"","type":"ccaas","label":%q}`, label), "code.tar.gz", string(code))
	packageID := fmt.Sprintf("%s:%x", label, sha256.Sum256(pkg))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- shim.Serve(ctx, counter{}, shim.Config{Listener: lis, PackageID: packageID}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for _, c := range []*fabricCLI{one, two} {
		installed := &lifecyclepb.InstallChaincodeResult{}
		c.lifecycle("", "InstallChaincode", &lifecyclepb.InstallChaincodeArgs{ChaincodeInstallPackage: pkg}, installed)
		if installed.GetPackageId() != packageID || installed.GetLabel() != label {
			t.Errorf("installed %v, want %s", installed, packageID)
		}
	}
	all := &lifecyclepb.QueryInstalledChaincodesResult{}
	one.lifecycle("", "QueryInstalledChaincodes", &lifecyclepb.QueryInstalledChaincodesArgs{}, all)
	found := false
	for _, c := range all.GetInstalledChaincodes() {
		found = found || c.GetPackageId() == packageID && c.GetLabel() == label
	}
	if !found {
		t.Errorf("queryinstalled: %v", all)
	}
	got := &lifecyclepb.GetInstalledChaincodePackageResult{}
	one.lifecycle("", "GetInstalledChaincodePackage", &lifecyclepb.GetInstalledChaincodePackageArgs{PackageId: packageID}, got)
	if !bytes.Equal(got.GetChaincodeInstallPackage(), pkg) {
		t.Error("getinstalledpackage gives another package")
	}
	for _, kind := range []string{"golang", "node", "java"} {
		other := archive(t, "metadata.json", fmt.Sprintf(`{"path":"x","type":%q,"label":"other"}`, kind), "code.tar.gz", string(archive(t, "src/main.go", "package main")))
		r := one.process(endorser, "", "_lifecycle", []byte("InstallChaincode"), one.marshal(&lifecyclepb.InstallChaincodeArgs{ChaincodeInstallPackage: other}))
		if r.GetStatus() != 500 || !strings.Contains(r.GetMessage(), "ccaas") || !strings.Contains(r.GetMessage(), kind) {
			t.Errorf("a package of type %s: %v", kind, r)
		}
	}

	// peer lifecycle chaincode approveformyorg, checkcommitreadiness, commit, querycommitted
	for i, c := range []*fabricCLI{one, two} {
		approve := &lifecyclepb.ApproveChaincodeDefinitionForMyOrgArgs{
			Name: name, Version: "1.0", Sequence: 1,
			Source: &lifecyclepb.ChaincodeSource{Type: &lifecyclepb.ChaincodeSource_LocalPackage{LocalPackage: &lifecyclepb.ChaincodeSource_Local{PackageId: packageID}}},
		}
		c.submit(n, []*fabricCLI{c}, "main", "_lifecycle", peerpb.ChaincodeSpec_UNDEFINED, []byte("ApproveChaincodeDefinitionForMyOrg"), c.marshal(approve))
		ready := &lifecyclepb.CheckCommitReadinessResult{}
		c.lifecycle("main", "CheckCommitReadiness", &lifecyclepb.CheckCommitReadinessArgs{Name: name, Version: "1.0", Sequence: 1}, ready)
		if a := ready.GetApprovals(); !a["Org1MSP"] || a["Org2MSP"] != (i == 1) || len(a) != 2 {
			t.Errorf("checkcommitreadiness after %d approvals: %v", i+1, a)
		}
		approved := &lifecyclepb.QueryApprovedChaincodeDefinitionResult{}
		c.lifecycle("main", "QueryApprovedChaincodeDefinition", &lifecyclepb.QueryApprovedChaincodeDefinitionArgs{Name: name, Sequence: 1}, approved)
		if approved.GetSource().GetLocalPackage().GetPackageId() != packageID {
			t.Errorf("queryapproved: %v", approved)
		}
	}
	// Both peers must have the second approval: else they endorse different reads.
	parse(two.query(endorser, "", "qscc", []byte("GetChainInfo"), []byte("main")), info)
	one.fetch("main", specified(info.GetHeight()-1))
	both := []*fabricCLI{one, two}
	commit := &lifecyclepb.CommitChaincodeDefinitionArgs{Name: name, Version: "1.0", Sequence: 1}
	one.submit(n, both, "main", "_lifecycle", peerpb.ChaincodeSpec_UNDEFINED, []byte("CommitChaincodeDefinition"), one.marshal(commit))
	committed := &lifecyclepb.QueryChaincodeDefinitionResult{}
	two.lifecycle("main", "QueryChaincodeDefinition", &lifecyclepb.QueryChaincodeDefinitionArgs{Name: name}, committed)
	if committed.GetSequence() != 1 || committed.GetVersion() != "1.0" || !committed.GetApprovals()["Org2MSP"] || committed.GetEndorsementPlugin() != "escc" {
		t.Errorf("querycommitted: %v", committed)
	}
	listed := &lifecyclepb.QueryChaincodeDefinitionsResult{}
	two.lifecycle("main", "QueryChaincodeDefinitions", &lifecyclepb.QueryChaincodeDefinitionsArgs{}, listed)
	if len(listed.GetChaincodeDefinitions()) < 2 {
		t.Errorf("querycommitted without a name: %v", listed)
	}

	// peer chaincode invoke --waitForEvent, query
	if r := one.submit(n, both, "main", name, peerpb.ChaincodeSpec_GOLANG, []byte("put"), []byte("k"), []byte("v")); string(r.GetPayload()) != "kept" {
		t.Errorf("invoke: %v", r)
	}
	for _, c := range both {
		if v := c.query(endorser, "main", name, []byte("get"), []byte("k")); string(v) != "v" {
			t.Errorf("query gives %q", v)
		}
	}
	if r := one.process(endorser, "main", name, []byte("none")); r.GetStatus() != 500 || r.GetMessage() != "unknown function none" {
		t.Errorf("a query that fails: %v", r)
	}
}

// TestFabricCLIJoins is `peer channel join`: a CONFIG header, no channel, and the genesis
// block as configtxgen writes it.
func TestFabricCLIJoins(t *testing.T) {
	n := start(t)
	a := startAppliance(t, n, "cli-first")
	text, err := os.ReadFile(a.admin)
	if err != nil {
		t.Fatal(err)
	}
	address := regexp.MustCompile(`peer:\n  address: (\S+)`).FindSubmatch(text)
	if address == nil {
		t.Fatal("admin.yaml names no peer")
	}
	admin := n.fabricAdmin(t, "org1")
	admin.conn = dial(t, string(address[1]), filepath.Join(n.dir, "org1/msp/tlscacerts/tlsca.pem"))

	description := filepath.Join(t.TempDir(), "second.yaml")
	main, err := os.ReadFile(filepath.Join(n.dir, "main.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, description, bytes.Replace(main, []byte("channel: main\n"), []byte("channel: cli-second\n"), 1))
	genesis := filepath.Join(t.TempDir(), "second.block")
	n.run(t, "channel", "genesis", "--description", description, "--out", genesis)
	block, err := os.ReadFile(genesis)
	if err != nil {
		t.Fatal(err)
	}
	if r := admin.process(commonpb.HeaderType_CONFIG, "", "cscc", []byte("JoinChain"), block); r.GetStatus() != 200 {
		t.Fatalf("join: %v", r)
	}
	channels, info, want := &peerpb.ChannelQueryResponse{}, &commonpb.BlockchainInfo{}, &commonpb.Block{}
	for b, into := range map[proto.Message][]byte{
		channels: admin.query(commonpb.HeaderType_ENDORSER_TRANSACTION, "", "cscc", []byte("GetChannels")),
		info:     admin.query(commonpb.HeaderType_ENDORSER_TRANSACTION, "", "qscc", []byte("GetChainInfo"), []byte("cli-second")),
		want:     block,
	} {
		if err := proto.Unmarshal(into, b); err != nil {
			t.Fatal(err)
		}
	}
	if len(channels.GetChannels()) != 2 || info.GetHeight() != 1 || !proto.Equal(admin.fetch("cli-second", oldest).GetHeader(), want.GetHeader()) {
		t.Errorf("channels %v, info %v", channels, info)
	}
	// An application's user may not.
	u := n.dialUser(t, "org1")
	user := &fabricCLI{t: t, identity: u.identity, conn: admin.conn}
	if r := user.process(commonpb.HeaderType_CONFIG, "", "cscc", []byte("JoinChain"), block); r.GetStatus() != 500 || !strings.Contains(r.GetMessage(), "access denied") {
		t.Errorf("a client joins: %v", r)
	}
}
