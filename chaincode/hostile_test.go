package chaincode_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/chaincode"
	"strongroom/chaincode/ccpackage"
	"strongroom/chaincode/chaincodetest"
	"strongroom/chaincode/shim"
	"strongroom/wire/peerpb"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

type message = peerpb.ChaincodeMessage

// script is a chaincode service that does as it pleases with each stream.
type script struct {
	peerpb.UnimplementedChaincodeServer
	run func(s peerpb.Chaincode_ConnectServer) error
}

func (s script) Connect(stream peerpb.Chaincode_ConnectServer) error { return s.run(stream) }

// hostile serves a script and returns a peer that is connected to it.
func hostile(t testing.TB, cfg chaincode.Config, run func(s peerpb.Chaincode_ConnectServer) error) *chaincodetest.Peer {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(shim.MaxMessageBytes), grpc.MaxSendMsgSize(shim.MaxMessageBytes))
	peerpb.RegisterChaincodeServer(server, script{run: run})
	done := make(chan error, 1)
	go func() { done <- server.Serve(lis) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	p := chaincodetest.NewPeer(t, cfg)
	p.PackageID = chaincodetest.PackageID
	if err := p.Host.AddService(p.PackageID, chaincode.Connection{Address: lis.Addr().String(), DialTimeout: ccpackage.Duration(time.Second)}); err != nil {
		t.Fatal(err)
	}
	return p
}

// register is the honest beginning of a script.
func register(s peerpb.Chaincode_ConnectServer, id string) error {
	payload, err := proto.Marshal(&peerpb.ChaincodeID{Name: id})
	if err != nil {
		return err
	}
	if err := s.Send(&message{Type: peerpb.ChaincodeMessage_REGISTER, Payload: payload}); err != nil {
		return err
	}
	for {
		m, err := s.Recv()
		if err != nil || m.Type == peerpb.ChaincodeMessage_READY {
			return err
		}
	}
}

// each registers and calls f for every message.
func each(f func(s peerpb.Chaincode_ConnectServer, m *message) error) func(peerpb.Chaincode_ConnectServer) error {
	return func(s peerpb.Chaincode_ConnectServer) error {
		if err := register(s, chaincodetest.PackageID); err != nil {
			return err
		}
		for {
			m, err := s.Recv()
			if err != nil {
				return err
			}
			if err := f(s, m); err != nil {
				return err
			}
		}
	}
}

func completed(m *message, payload string) *message {
	b, err := proto.Marshal(&peerpb.Response{Status: 200, Payload: []byte(payload)})
	if err != nil {
		panic(err)
	}
	return &message{Type: peerpb.ChaincodeMessage_COMPLETED, Txid: m.Txid, ChannelId: m.ChannelId, Payload: b}
}

func function(m *message) string {
	var in peerpb.ChaincodeInput
	if err := proto.Unmarshal(m.Payload, &in); err != nil || len(in.Args) == 0 {
		return ""
	}
	return string(in.Args[0])
}

// What a chaincode does wrong ends its own transaction with an error that says
// so, and a good transaction before, beside and after it is not touched.
func TestHostileChaincode(t *testing.T) {
	request := func(kind peerpb.ChaincodeMessage_Type, m *message, payload proto.Message) *message {
		b, err := proto.Marshal(payload)
		if err != nil {
			t.Error(err)
		}
		return &message{Type: kind, Txid: m.Txid, ChannelId: m.ChannelId, Payload: b}
	}
	run := each(func(s peerpb.Chaincode_ConnectServer, m *message) error {
		if m.Type != peerpb.ChaincodeMessage_TRANSACTION {
			return nil
		}
		switch function(m) {
		case "good":
			return s.Send(completed(m, "good"))
		case "flood":
			for range 100 {
				if err := s.Send(request(peerpb.ChaincodeMessage_GET_STATE, m, &peerpb.GetState{Key: "k"})); err != nil {
					return err
				}
			}
		case "garbage":
			return s.Send(&message{Type: peerpb.ChaincodeMessage_COMPLETED, Txid: m.Txid, ChannelId: m.ChannelId, Payload: []byte{0xff}})
		case "type":
			return s.Send(&message{Type: 99, Txid: m.Txid, ChannelId: m.ChannelId})
		case "response":
			return s.Send(&message{Type: peerpb.ChaincodeMessage_RESPONSE, Txid: m.Txid, ChannelId: m.ChannelId})
		case "error":
			return s.Send(&message{Type: peerpb.ChaincodeMessage_ERROR, Txid: m.Txid, ChannelId: m.ChannelId, Payload: []byte("it broke")})
		case "foreign": // speaks for another transaction, then for itself
			for _, kind := range []peerpb.ChaincodeMessage_Type{peerpb.ChaincodeMessage_COMPLETED, peerpb.ChaincodeMessage_ERROR, peerpb.ChaincodeMessage_PUT_STATE, 99} {
				if err := s.Send(&message{Type: kind, Txid: "another", ChannelId: m.ChannelId}); err != nil {
					return err
				}
			}
			return s.Send(completed(m, "good"))
		case "crash":
			return errors.New("crash")
		case "again":
			return s.Send(&message{Type: peerpb.ChaincodeMessage_REGISTER})
		case "huge":
			return s.Send(&message{Type: peerpb.ChaincodeMessage_PUT_STATE, Txid: m.Txid, ChannelId: m.ChannelId, Payload: make([]byte, 2<<20)})
		}
		return nil
	})
	p := hostile(t, chaincode.Config{MaxMessageBytes: 1 << 20}, run)
	for _, c := range []struct {
		function string
		class    error
		want     string
	}{
		{"flood", chaincode.ErrProtocol, "without waiting for the answers"},
		{"garbage", chaincode.ErrProtocol, "does not hold a Response"},
		{"type", chaincode.ErrProtocol, "not a request"},
		{"response", chaincode.ErrProtocol, "not a request"},
		{"error", chaincode.ErrFailed, "it broke"},
		{"foreign", nil, ""},
		{"crash", chaincode.ErrConnectionLost, "stream terminated"},
		{"again", chaincode.ErrConnectionLost, "REGISTER came twice"},
		{"huge", chaincode.ErrConnectionLost, "larger than max"},
		{"hang", chaincode.ErrTimeout, "timeout expired while executing transaction"},
	} {
		inv := p.Invocation(p.Store.Simulate(""), nil, c.function)
		inv.Timeout = 5 * time.Second
		if c.function == "hang" {
			inv.Timeout = 30 * time.Millisecond
		}
		_, err := p.Host.Execute(t.Context(), inv)
		if !errors.Is(err, c.class) || (err != nil) != (c.class != nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.function, err)
		}
		if out, err := p.Evaluate("good"); err != nil || string(out.Response.Payload) != "good" {
			t.Errorf("after %s: %v", c.function, err)
		}
	}
}

// Requests that this peer does not serve get an answer that says so.
func TestRefusedRequests(t *testing.T) {
	var mu sync.Mutex
	var answers []string
	requests := []struct {
		kind    peerpb.ChaincodeMessage_Type
		payload proto.Message
		want    string
	}{
		{peerpb.ChaincodeMessage_GET_STATE, &peerpb.GetState{Key: "k", Collection: "c"}, "private data collections are not supported yet"},
		{peerpb.ChaincodeMessage_PUT_STATE, &peerpb.PutState{Key: "k", Collection: "c"}, "private data collections are not supported yet"},
		{peerpb.ChaincodeMessage_DEL_STATE, &peerpb.DelState{Key: "k", Collection: "c"}, "private data collections are not supported yet"},
		{peerpb.ChaincodeMessage_GET_PRIVATE_DATA_HASH, &peerpb.GetState{Key: "k", Collection: "c"}, "private data collections are not supported yet"},
		{peerpb.ChaincodeMessage_PURGE_PRIVATE_DATA, &peerpb.PurgePrivateState{Key: "k", Collection: "c"}, "private data collections are not supported yet"},
		{peerpb.ChaincodeMessage_GET_STATE_BY_RANGE, &peerpb.GetStateByRange{Collection: "c"}, "private data collections are not supported yet"},
		{peerpb.ChaincodeMessage_GET_STATE_METADATA, &peerpb.GetStateMetadata{Key: "k", Collection: "c"}, "private data collections are not supported yet"},
		{peerpb.ChaincodeMessage_PUT_STATE_METADATA, &peerpb.PutStateMetadata{Key: "k"}, "no metadata entry"},
		{peerpb.ChaincodeMessage_GET_QUERY_RESULT, &peerpb.GetQueryResult{Query: "{}"}, "rich query: selector is missing"},
		{peerpb.ChaincodeMessage_GET_QUERY_RESULT, &peerpb.GetQueryResult{Query: `{"selector":{}}`, Metadata: []byte{0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}}, "page size is -1"},
		{peerpb.ChaincodeMessage_GET_QUERY_RESULT, &peerpb.GetQueryResult{Query: `{"selector":{}}`, Collection: "c"}, "private data collections are not supported yet"},
		{peerpb.ChaincodeMessage_QUERY_STATE_NEXT, &peerpb.QueryStateNext{Id: "9"}, "query iterator not found"},
		{peerpb.ChaincodeMessage_GET_STATE_MULTIPLE, &peerpb.GetStateMultiple{Keys: make([]string, 1001)}, "at most 1000"},
		{peerpb.ChaincodeMessage_WRITE_BATCH_STATE, &peerpb.WriteBatchState{Rec: []*peerpb.WriteRecord{{}}}, "unknown operation type"},
		{peerpb.ChaincodeMessage_WRITE_BATCH_STATE, &peerpb.WriteBatchState{Rec: []*peerpb.WriteRecord{{Type: peerpb.WriteRecord_PURGE_PRIVATE_DATA}}}, "private data"},
		{peerpb.ChaincodeMessage_INVOKE_CHAINCODE, &peerpb.ChaincodeSpec{ChaincodeId: &peerpb.ChaincodeID{Name: "x"}, Input: &peerpb.ChaincodeInput{}}, "not configured"},
	}
	p := hostile(t, chaincode.Config{MaxIterators: 2}, each(func(s peerpb.Chaincode_ConnectServer, m *message) error {
		ask := func(kind peerpb.ChaincodeMessage_Type, payload []byte) error {
			if err := s.Send(&message{Type: kind, Txid: m.Txid, ChannelId: m.ChannelId, Payload: payload}); err != nil {
				return err
			}
			a, err := s.Recv()
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, a.Type.String()+" "+string(a.Payload))
			return nil
		}
		for _, r := range requests {
			b, err := proto.Marshal(r.payload)
			if err != nil {
				return err
			}
			if err := ask(r.kind, b); err != nil {
				return err
			}
		}
		for range 3 {
			if err := ask(peerpb.ChaincodeMessage_GET_STATE_BY_RANGE, nil); err != nil {
				return err
			}
		}
		if err := ask(peerpb.ChaincodeMessage_GET_STATE, []byte{0xff}); err != nil {
			return err
		}
		return s.Send(completed(m, ""))
	}))
	state := p.Store.Simulate("")
	for i := range 150 {
		if err := state.Put("basic", string(rune('a'+i)), []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	state.Commit(chaincodetest.Time)
	inv := p.Invocation(nil, nil, "f")
	state = p.Store.Simulate(inv.TxID)
	inv.State = state
	if _, err := p.Host.Execute(t.Context(), inv); err != nil {
		t.Fatal(err)
	}
	same(t, state.OpenIterators(), 0)
	mu.Lock()
	defer mu.Unlock()
	for i, r := range requests {
		want := "ERROR " + r.kind.String() + " failed: transaction ID: " + inv.TxID + ": "
		if !strings.HasPrefix(answers[i], want) || !strings.Contains(answers[i], r.want) {
			t.Errorf("%s: %s", r.kind, answers[i])
		}
	}
	n := len(requests)
	if strings.HasPrefix(answers[n+1], "ERROR") || !strings.Contains(answers[n+2], "2 iterators open") || !strings.Contains(answers[n+3], "unmarshal failed") {
		t.Errorf("%q", answers[n+1:])
	}
}

// A late answer frees the transaction's id and is not taken for another run's.
func TestLateAnswer(t *testing.T) {
	release := make(chan struct{})
	gone := make(chan string, 1)
	p := hostile(t, chaincode.Config{}, each(func(s peerpb.Chaincode_ConnectServer, m *message) error {
		if m.Type != peerpb.ChaincodeMessage_TRANSACTION || function(m) != "late" {
			return s.Send(completed(m, "good"))
		}
		select {
		case <-release:
		case <-s.Context().Done():
			return nil
		}
		// A request after the end is refused in Fabric's words.
		if err := s.Send(&message{Type: peerpb.ChaincodeMessage_GET_STATE, Txid: m.Txid, ChannelId: m.ChannelId}); err != nil {
			return err
		}
		a, err := s.Recv()
		if err != nil {
			return err
		}
		gone <- string(a.Payload)
		return s.Send(completed(m, "late"))
	}))
	inv := p.Invocation(p.Store.Simulate(""), nil, "late")
	inv.Timeout = 30 * time.Millisecond
	if _, err := p.Host.Execute(t.Context(), inv); !errors.Is(err, chaincode.ErrTimeout) {
		t.Fatal(err)
	}
	if _, err := p.Host.Execute(t.Context(), inv); !errors.Is(err, chaincode.ErrDuplicateTx) {
		t.Fatal(err)
	}
	close(release)
	if text := <-gone; !strings.Contains(text, "no ledger context") {
		t.Error(text)
	}
	// This answer comes after the late one on the same stream.
	if _, err := p.Evaluate("good"); err != nil {
		t.Fatal(err)
	}
	again := inv
	again.Input = &peerpb.ChaincodeInput{Args: [][]byte{[]byte("good")}}
	again.Timeout = 0
	if out, err := p.Host.Execute(t.Context(), again); err != nil || string(out.Response.Payload) != "good" {
		t.Errorf("%v %v", out, err)
	}
}

// A service that registers wrongly is not used, and the error says what to do.
func TestBadRegistration(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(peerpb.Chaincode_ConnectServer) error
		want string
	}{
		{"other id", func(s peerpb.Chaincode_ConnectServer) error { return register(s, "basic:2") }, "start it with CORE_CHAINCODE_ID_NAME"},
		{"no id", func(s peerpb.Chaincode_ConnectServer) error { return register(s, "") }, "names no chaincode"},
		{"request first", func(s peerpb.Chaincode_ConnectServer) error {
			if err := s.Send(&message{Type: peerpb.ChaincodeMessage_GET_STATE}); err != nil {
				return err
			}
			<-s.Context().Done()
			return nil
		}, "came before REGISTER"},
		{"silence", func(s peerpb.Chaincode_ConnectServer) error { <-s.Context().Done(); return nil }, "no registration within dial_timeout"},
		{"bye", func(peerpb.Chaincode_ConnectServer) error { return nil }, "closed the connection"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := hostile(t, chaincode.Config{}, c.run)
			_, err := p.Evaluate("f")
			if !errors.Is(err, chaincode.ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A connection whose chaincode no longer answers KEEPALIVE is made anew.
func TestKeepalive(t *testing.T) {
	streams := make(chan bool, 100)
	p := hostile(t, chaincode.Config{Keepalive: 20 * time.Millisecond}, func(s peerpb.Chaincode_ConnectServer) error {
		if err := register(s, chaincodetest.PackageID); err != nil {
			return err
		}
		asked := false
		for {
			m, err := s.Recv()
			if err != nil {
				streams <- asked
				return err
			}
			asked = asked || m.Type == peerpb.ChaincodeMessage_KEEPALIVE
		}
	})
	// What was sent just before a connection ends may not arrive: one of many was asked.
	for n := 1; !<-streams; n++ {
		if n == 50 {
			t.Fatal("fifty connections were closed without KEEPALIVE")
		}
	}
	inv := p.Invocation(p.Store.Simulate(""), nil, "f")
	if _, err := p.Host.Execute(t.Context(), inv); !errors.Is(err, chaincode.ErrConnectionLost) || !strings.Contains(err.Error(), "KEEPALIVE") {
		t.Errorf("%v", err)
	}
	// The shim answers, so that its connection stays.
	good := chaincodetest.Start(t, everything{}, chaincode.Config{Keepalive: 300 * time.Millisecond})
	inv = good.Invocation(good.Store.Simulate(""), nil, "hang")
	inv.Timeout = time.Second // more than three times the interval
	if _, err := good.Host.Execute(t.Context(), inv); !errors.Is(err, chaincode.ErrTimeout) {
		t.Errorf("%v", err)
	}
}

// The host dials again when the service comes back, also at once when asked.
func TestReconnect(t *testing.T) {
	p := chaincodetest.NewPeer(t, chaincode.Config{})
	p.PackageID = chaincodetest.PackageID
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := lis.Addr().String()
	for round := range 3 {
		if round > 0 {
			if lis, err = net.Listen("tcp", address); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- shim.Serve(ctx, everything{}, shim.Config{Listener: lis, PackageID: p.PackageID})
		}()
		if round == 0 {
			if err := p.Host.AddService(p.PackageID, chaincode.Connection{Address: address}); err != nil {
				t.Fatal(err)
			}
		}
		for { // an attempt may still hit the time without a listener
			_, err := p.Evaluate("get", "k")
			if err == nil {
				break
			}
			if !errors.Is(err, chaincode.ErrUnavailable) && !errors.Is(err, chaincode.ErrConnectionLost) {
				t.Fatal(err)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	p.Host.RemoveService(p.PackageID)
	if _, err := p.Evaluate("get", "k"); !errors.Is(err, chaincode.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestDialIn(t *testing.T) {
	serve := func(cfg chaincode.Config) (*chaincodetest.Peer, string) {
		p := chaincodetest.NewPeer(t, cfg)
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		peerpb.RegisterChaincodeSupportServer(server, p.Host)
		go func() {
			if err := server.Serve(lis); err != nil {
				t.Error(err)
			}
		}()
		t.Cleanup(server.Stop)
		return p, lis.Addr().String()
	}
	_, address := serve(chaincode.Config{})
	if err := shim.Dial(t.Context(), everything{}, shim.Config{Address: address, PackageID: "basic"}); err == nil || !strings.Contains(err.Error(), "accepts no chaincode that dials in") {
		t.Errorf("%v", err)
	}

	admitted := make(chan string, 10)
	p, address := serve(chaincode.Config{AdmitDialIn: func(_ context.Context, id string) error {
		if id != "basic" {
			return errors.New("not in development")
		}
		admitted <- id
		return nil
	}})
	if err := shim.Dial(t.Context(), everything{}, shim.Config{Address: address, PackageID: "evil"}); err == nil || !strings.Contains(err.Error(), "not in development") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- shim.Dial(ctx, everything{}, shim.Config{Address: address, PackageID: "basic"}) }()
	<-admitted
	for !connected(p) {
		runtime.Gosched()
	}
	out, err := p.Submit("put", "a", "1") // found by the chaincode's name
	same(t, result[string](t, out, err), "ok")
	if err := shim.Dial(t.Context(), everything{}, shim.Config{Address: address, PackageID: "basic"}); err == nil || !strings.Contains(err.Error(), "already connected from") {
		t.Errorf("%v", err)
	}
	if _, err := p.Evaluate("get", "a"); err != nil {
		t.Errorf("the first connection suffered: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func connected(p *chaincodetest.Peer) bool {
	for _, s := range p.Host.Status() {
		if s.Connected {
			return true
		}
	}
	return false
}

func TestTLS(t *testing.T) {
	ca, caKey := certificate(t, "ca", nil, nil)
	server, serverKey := certificate(t, "cc.example", ca, caKey)
	client, clientKey := certificate(t, "peer0", ca, caKey)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- shim.Serve(ctx, everything{}, shim.Config{Listener: lis, PackageID: chaincodetest.PackageID, TLS: &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{server.Raw}, PrivateKey: serverKey}},
			ClientCAs:    pool, ClientAuth: tls.RequireAndVerifyClientCert,
		}})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	keyDER, err := x509.MarshalPKCS8PrivateKey(clientKey)
	if err != nil {
		t.Fatal(err)
	}
	good := chaincode.Connection{
		Address: lis.Addr().String(), TLSRequired: true, ClientAuthRequired: true, Domain: "cc.example",
		RootCert:   text("CERTIFICATE", ca.Raw),
		ClientCert: text("CERTIFICATE", client.Raw), ClientKey: text("PRIVATE KEY", keyDER),
	}
	foreign, _ := certificate(t, "ca", nil, nil)
	for _, c := range []struct {
		name string
		edit func(*chaincode.Connection)
		want string
	}{
		{"good", func(*chaincode.Connection) {}, ""},
		{"own key", func(c *chaincode.Connection) { c.ClientCert, c.ClientKey = "", "" }, ""},
		{"no client certificate", func(c *chaincode.Connection) { c.ClientAuthRequired, c.ClientCert, c.ClientKey = false, "", "" }, "at 127.0.0.1"},
		{"wrong name", func(c *chaincode.Connection) { c.Domain = "other.example" }, "not other.example"},
		{"wrong issuer", func(c *chaincode.Connection) { c.RootCert = text("CERTIFICATE", foreign.Raw) }, "unknown authority"},
		{"plain", func(c *chaincode.Connection) { c.TLSRequired, c.ClientAuthRequired = false, false }, "error"},
	} {
		p := chaincodetest.NewPeer(t, chaincode.Config{ClientCertificate: func() *tls.Certificate {
			return &tls.Certificate{Certificate: [][]byte{client.Raw}, PrivateKey: clientKey}
		}})
		p.PackageID = chaincodetest.PackageID
		conn := good
		c.edit(&conn)
		if err := p.Host.AddService(p.PackageID, conn); err != nil {
			t.Fatal(c.name, err)
		}
		_, err := p.Evaluate("get", "k")
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func text(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func certificate(t *testing.T, name string, issuer *x509.Certificate, issuerKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: issuer == nil, BasicConstraintsValid: true}
	if issuer == nil {
		issuer, issuerKey = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, &key.PublicKey, issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}
