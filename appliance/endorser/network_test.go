package endorser_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"strongroom/appliance/endorser"
	net "strongroom/appliance/endorser/endorsertest"
	"strongroom/appliance/rpcerr"
	"strongroom/bccsp/bccsptest"
	"strongroom/ledger"
	"strongroom/wire/peerpb"
)

// vetoOf refuses to endorse writes of one key.
type vetoOf string

func (v vetoOf) MayEndorse(_ context.Context, r *endorser.Result) error {
	for _, ns := range r.ReadWriteSet.Namespaces {
		for _, w := range ns.KV.GetWrites() {
			if w.GetKey() == string(v) {
				return &rpcerr.Refusal{Public: "this peer does not endorse it", Decision: "d-1", Cause: errors.New("rule 7 of the secret policy")}
			}
		}
	}
	return nil
}

func TestEndorserOverNetwork(t *testing.T) {
	n := net.Start(t, func(_ *net.Peer, cfg *endorser.Config) {
		cfg.Guard = vetoOf("forbidden")
		cfg.MaxProposalBytes = 64 << 10
	}, "Org1MSP")
	n.Deploy(t, "kv")
	n.Deploy(t, "other")
	p := n.Peers[0]
	client := peerpb.NewEndorserClient(p.Conn)
	call := func(args ...string) net.Call {
		return net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args(args...)}
	}

	t.Run("endorsed", func(t *testing.T) {
		signed := net.Propose(t, p.Client, call("put", "a", "1"))
		resp := p.Endorse(t, signed)
		id, err := p.Local.Identity(t.Context(), resp.GetEndorsement().GetEndorser())
		if err != nil {
			t.Fatal(err)
		}
		message := append(append([]byte(nil), resp.GetPayload()...), resp.GetEndorsement().GetEndorser()...)
		if err := id.Verify(t.Context(), message, resp.GetEndorsement().GetSignature()); err != nil {
			t.Error(err)
		}
		if calls := resp.GetInterest().GetChaincodes(); len(calls) != 1 || calls[0].GetName() != "kv" || calls[0].GetDisregardNamespacePolicy() {
			t.Errorf("interest = %v", resp.GetInterest())
		}
	})
	t.Run("chaincode calls chaincode", func(t *testing.T) {
		resp := p.Endorse(t, net.Propose(t, p.Client, call("call", "other", "put", "k", "v")))
		var names []string
		for _, c := range resp.GetInterest().GetChaincodes() {
			names = append(names, c.GetName())
		}
		if strings.Join(names, " ") != "other" && strings.Join(names, " ") != "kv other" {
			t.Errorf("interest names %v, want other", names)
		}
		if got := string(resp.GetResponse().GetPayload()); got != "put k" {
			t.Errorf("payload = %q", got)
		}
	})

	answers := []struct {
		name   string
		call   net.Call
		status int32
		text   string
	}{
		{"status of 400 and more is not endorsed", call("refuse"), 404, "refused as asked"},
		{"error of the chaincode", call("nix"), 500, "unknown function nix"},
		{"no such chaincode", net.Call{Channel: net.ChannelID, Chaincode: "none", Args: net.Args("x")}, 500, "make sure the chaincode none has been successfully defined on channel testchannel and try again: chaincode none not found"},
		{"init is not asked for", net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args("x"), IsInit: true}, 500, "does not require initialization but called as init"},
		{"call of no chaincode", call("call", "none", "x"), 500, "none"},
		{"veto", call("put", "forbidden", "1"), 500, "endorsement refused: this peer does not endorse it (decision d-1)"},
		{"unknown channel", net.Call{Channel: "elsewhere", Chaincode: "kv", Args: net.Args("x")}, 500, "channel 'elsewhere' not found"},
	}
	for _, test := range answers {
		t.Run(test.name, func(t *testing.T) {
			resp, err := client.ProcessProposal(t.Context(), net.Propose(t, p.Client, test.call))
			if err != nil {
				t.Fatal(err)
			}
			if resp.GetEndorsement() != nil || resp.GetResponse().GetStatus() != test.status || !strings.Contains(resp.GetResponse().GetMessage(), test.text) {
				t.Errorf("answer = %v, want status %d with %q and no endorsement", resp, test.status, test.text)
			}
			if strings.Contains(resp.GetResponse().GetMessage(), "secret") {
				t.Errorf("message %q tells the cause", resp.GetResponse().GetMessage())
			}
		})
	}

	good := net.Propose(t, p.Client, call("get", "a"))
	changed := func(change func(*peerpb.SignedProposal)) *peerpb.SignedProposal {
		c := proto.Clone(good).(*peerpb.SignedProposal)
		change(c)
		return c
	}
	foreign := bccsptest.NewCA(t, n.Token, "Org1MSP").Issue(t, "impostor", "client")
	unknown := bccsptest.NewCA(t, n.Token, "NoMSP").Issue(t, "nobody", "client")
	expired := p.CA.Issue(t, "old", "client", bccsptest.Valid(time.Now().Add(-2*time.Minute), time.Now().Add(-time.Minute)))
	const denied = "error validating proposal: access denied: channel [testchannel] creator org [Org1MSP]"
	refusals := []struct {
		name     string
		proposal *peerpb.SignedProposal
		code     codes.Code
		text     string
	}{
		{"signature of another", changed(func(p *peerpb.SignedProposal) {
			p.Signature = net.Propose(t, n.Peers[0].Admin, call("get", "a")).Signature
		}), codes.PermissionDenied, denied},
		{"no signature at all", changed(func(p *peerpb.SignedProposal) { p.Signature = []byte("x") }), codes.PermissionDenied, denied},
		{"certificate of another CA", net.Propose(t, foreign, call("get", "a")), codes.PermissionDenied, denied},
		{"unknown organisation", net.Propose(t, unknown, call("get", "a")), codes.PermissionDenied, "error validating proposal: access denied: channel [testchannel] creator org [NoMSP]"},
		{"expired", net.Propose(t, expired, call("get", "a")), codes.PermissionDenied, "proposal client identity expired"},
		{"a peer is no writer", net.Propose(t, peerIdentity(t, p), call("get", "a")), codes.PermissionDenied, "access denied: channel [testchannel] creator org [Org1MSP] (decision "},
		{"empty", &peerpb.SignedProposal{}, codes.InvalidArgument, "proposal_bytes is empty"},
		{"garbage", &peerpb.SignedProposal{ProposalBytes: []byte{0xff}, Signature: []byte{1}}, codes.InvalidArgument, "does not parse"},
		{"too large", &peerpb.SignedProposal{ProposalBytes: make([]byte, 65<<10), Signature: []byte{1}}, codes.InvalidArgument, "takes at most 65536"},
		{"chaincode without channel", net.Propose(t, p.Client, net.Call{Chaincode: "kv"}), codes.InvalidArgument, "channel_id is empty"},
	}
	for _, test := range refusals {
		t.Run(test.name, func(t *testing.T) {
			resp, err := client.ProcessProposal(t.Context(), test.proposal)
			if status.Code(err) != test.code || !strings.Contains(status.Convert(err).Message(), test.text) {
				t.Errorf("answer = %v, %v, want %s with %q", resp, err, test.code, test.text)
			}
		})
	}

	t.Run("duplicate", func(t *testing.T) {
		signed := net.Propose(t, p.Client, call("put", "b", "2"))
		n.SubmitSigned(t, p.Client, signed, p)
		_, err := client.ProcessProposal(t.Context(), signed)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "duplicate transaction found ["+net.TxID(t, signed)+"]") {
			t.Errorf("error = %v", err)
		}
	})
	t.Run("observed", func(t *testing.T) {
		stages := make(map[endorser.Stage]int)
		for _, o := range p.Observed() {
			stages[o.Stage]++
		}
		for _, want := range []endorser.Stage{endorser.StageMalformed, endorser.StageRefused, endorser.StageFailed, endorser.StageRejected, endorser.StageVetoed, endorser.StageEndorsed, endorser.StageUnendorsed} {
			if stages[want] == 0 {
				t.Errorf("no proposal was observed as %s: %v", want, stages)
			}
		}
	})
}

func peerIdentity(t *testing.T, p *net.Peer) *bccsptest.Identity {
	t.Helper()
	return p.CA.Issue(t, "peer1", "peer")
}

// blocking is a Definitions that waits until it is told to go on.
type blocking struct {
	endorser.Definitions
	entered, leave chan struct{}
}

func (b *blocking) Runnable(ctx context.Context, channelID, name string, sim *ledger.Simulator) (endorser.Runnable, error) {
	b.entered <- struct{}{}
	select {
	case <-b.leave:
		return endorser.Runnable{}, errors.New("told to leave")
	case <-ctx.Done():
		return endorser.Runnable{}, ctx.Err()
	}
}

func TestConcurrencyAndTime(t *testing.T) {
	b := &blocking{entered: make(chan struct{}, 1), leave: make(chan struct{})}
	n := net.Start(t, func(_ *net.Peer, cfg *endorser.Config) {
		cfg.Definitions, cfg.Concurrency, cfg.Timeout = b, 1, time.Minute
	}, "Org1MSP")
	p := n.Peers[0]
	client := peerpb.NewEndorserClient(p.Conn)
	call := net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args("get", "a")}
	first := make(chan error, 1)
	held := net.Propose(t, p.Client, call)
	go func() {
		resp, err := client.ProcessProposal(t.Context(), held)
		if err == nil && !strings.Contains(resp.GetResponse().GetMessage(), "told to leave") {
			err = errors.New("unexpected answer: " + resp.GetResponse().GetMessage())
		}
		first <- err
	}()
	<-b.entered
	if _, err := client.ProcessProposal(t.Context(), net.Propose(t, p.Client, call)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("second proposal = %v, want %s", err, codes.ResourceExhausted)
	}
	close(b.leave)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

func FuzzProcessProposal(f *testing.F) {
	n := net.Start(f, nil, "Org1MSP")
	p := n.Peers[0]
	signed := net.Propose(f, p.Client, net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args("get", "a")})
	f.Add(signed.GetProposalBytes(), signed.GetSignature())
	f.Add([]byte{0xff}, []byte{})
	f.Add(signed.GetProposalBytes()[:40], signed.GetSignature())
	f.Fuzz(func(t *testing.T, proposal, signature []byte) {
		resp, err := p.Endorser.ProcessProposal(t.Context(), &peerpb.SignedProposal{ProposalBytes: proposal, Signature: signature})
		switch status.Code(err) {
		case codes.OK:
			if resp.GetEndorsement() != nil {
				t.Error("endorsed a call of a chaincode that does not exist")
			}
		case codes.InvalidArgument, codes.PermissionDenied:
		default:
			t.Errorf("error %v of our own on a client's bytes", err)
		}
	})
}
