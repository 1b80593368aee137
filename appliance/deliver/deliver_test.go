package deliver_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strongroom/appliance/deliver"
	net "strongroom/appliance/endorser/endorsertest"
	"strongroom/bccsp/bccsptest"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

func specified(n uint64) *ordererpb.SeekPosition {
	return &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Specified{Specified: &ordererpb.SeekSpecified{Number: n}}}
}

var (
	oldest = &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Oldest{Oldest: &ordererpb.SeekOldest{}}}
	newest = &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Newest{Newest: &ordererpb.SeekNewest{}}}
	coming = &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_NextCommit{NextCommit: &ordererpb.SeekNextCommit{}}}
)

// seek makes a signed request.
func seek(t testing.TB, by *bccsptest.Identity, channelID string, from, to *ordererpb.SeekPosition) *commonpb.Envelope {
	t.Helper()
	return net.Sign(t, by, net.Marshal(t, &commonpb.Payload{
		Header: &commonpb.Header{
			ChannelHeader:   net.Marshal(t, &commonpb.ChannelHeader{Type: int32(commonpb.HeaderType_DELIVER_SEEK_INFO), ChannelId: channelID, Timestamp: timestamppb.Now()}),
			SignatureHeader: net.Marshal(t, &commonpb.SignatureHeader{Creator: by.Serialized(), Nonce: []byte("nonce")}),
		},
		Data: net.Marshal(t, &ordererpb.SeekInfo{Start: from, Stop: to, Behavior: ordererpb.SeekInfo_BLOCK_UNTIL_READY}),
	}))
}

type stream interface {
	Send(*commonpb.Envelope) error
	Recv() (*peerpb.DeliverResponse, error)
}

// ask sends a request and reads up to the status.
func ask(t *testing.T, s stream, env *commonpb.Envelope) (responses []*peerpb.DeliverResponse, st commonpb.Status) {
	t.Helper()
	if err := s.Send(env); err != nil {
		t.Fatal(err)
	}
	for {
		resp, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if end, ok := resp.GetType().(*peerpb.DeliverResponse_Status); ok {
			return responses, end.Status
		}
		responses = append(responses, resp)
	}
}

func TestDeliverOverNetwork(t *testing.T) {
	n := net.Start(t, nil, "Org1MSP")
	n.Deploy(t, "kv")
	p := n.Peers[0]
	call := func(args ...string) net.Call {
		return net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args(args...)}
	}
	signed := net.Propose(t, p.Client, call("event", "happened", "secret payload"))
	n.SubmitSigned(t, p.Client, signed, p)
	height := p.Channel.Ledger().Height()

	var clock atomic.Int64 // offset from now
	s, err := deliver.New(deliver.Config{
		Access:   p.Guard,
		Channels: func(id string) (deliver.Channel, bool) { return p.Channel, id == net.ChannelID },
		Now:      func() time.Time { return time.Now().Add(time.Duration(clock.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	client := peerpb.NewDeliverClient(net.Dial(t, net.Serve(t, func(g *grpc.Server) { peerpb.RegisterDeliverServer(g, s) })))
	whole := func() stream {
		t.Helper()
		c, err := client.Deliver(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	filtered := func() stream {
		t.Helper()
		c, err := client.DeliverFiltered(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}

	t.Run("all blocks", func(t *testing.T) {
		got, st := ask(t, whole(), seek(t, p.Client, net.ChannelID, oldest, newest))
		if st != commonpb.Status_SUCCESS || uint64(len(got)) != height {
			t.Fatalf("%d blocks, %s, want %d", len(got), st, height)
		}
		for i, r := range got {
			want, err := p.Channel.Ledger().Block(uint64(i))
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(r.GetBlock(), want) {
				t.Errorf("block %d differs from the ledger's", i)
			}
		}
	})
	t.Run("filtered", func(t *testing.T) {
		got, st := ask(t, filtered(), seek(t, p.Client, net.ChannelID, newest, newest))
		if st != commonpb.Status_SUCCESS || len(got) != 1 {
			t.Fatalf("%d blocks, %s", len(got), st)
		}
		b := got[0].GetFilteredBlock()
		if b.GetChannelId() != net.ChannelID || b.GetNumber() != height-1 || len(b.GetFilteredTransactions()) != 1 {
			t.Fatalf("filtered block = %v", b)
		}
		tx := b.GetFilteredTransactions()[0]
		event := tx.GetTransactionActions().GetChaincodeActions()[0].GetChaincodeEvent()
		if tx.GetTxid() != net.TxID(t, signed) || tx.GetTxValidationCode() != peerpb.TxValidationCode_VALID ||
			event.GetEventName() != "happened" || event.GetChaincodeId() != "kv" || event.GetPayload() != nil {
			t.Errorf("filtered transaction = %v", tx)
		}
	})
	t.Run("waits for the next block", func(t *testing.T) {
		c := whole()
		if err := c.Send(seek(t, p.Client, net.ChannelID, coming, specified(height+1))); err != nil {
			t.Fatal(err)
		}
		n.Submit(t, p.Client, call("put", "x", "1"), p)
		n.Submit(t, p.Client, call("put", "x", "2"), p)
		for number := height; number <= height+1; number++ {
			resp, err := c.Recv()
			if err != nil || resp.GetBlock().GetHeader().GetNumber() != number {
				t.Fatalf("response = %v, %v, want block %d", resp, err, number)
			}
		}
		if resp, err := c.Recv(); err != nil || resp.GetStatus() != commonpb.Status_SUCCESS {
			t.Errorf("end = %v, %v", resp, err)
		}
	})
	stranger := bccsptest.NewCA(t, n.Token, "Org1MSP").Issue(t, "stranger", "client")
	forged := seek(t, p.Client, net.ChannelID, oldest, newest)
	forged.Signature = seek(t, p.Admin, net.ChannelID, oldest, newest).Signature
	for _, test := range []struct {
		name string
		env  *commonpb.Envelope
		want commonpb.Status
	}{
		{"unknown channel", seek(t, p.Client, "nowhere", oldest, newest), commonpb.Status_NOT_FOUND},
		{"stranger", seek(t, stranger, net.ChannelID, oldest, newest), commonpb.Status_FORBIDDEN},
		{"signature of another", forged, commonpb.Status_FORBIDDEN},
		{"no positions", seek(t, p.Client, net.ChannelID, nil, nil), commonpb.Status_BAD_REQUEST},
		{"garbage", &commonpb.Envelope{Payload: []byte{0xff}}, commonpb.Status_BAD_REQUEST},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, s := range []stream{whole(), filtered()} {
				if got, st := ask(t, s, test.env); st != test.want || len(got) != 0 {
					t.Errorf("%d blocks and %s, want %s", len(got), st, test.want)
				}
			}
		})
	}
	t.Run("the stream ends with the certificate", func(t *testing.T) {
		short := p.CA.Issue(t, "short", "client", bccsptest.Valid(time.Now().Add(-time.Minute), time.Now().Add(10*time.Minute)))
		c := whole()
		if err := c.Send(seek(t, short, net.ChannelID, newest, specified(1<<40))); err != nil {
			t.Fatal(err)
		}
		if resp, err := c.Recv(); err != nil || resp.GetBlock() == nil {
			t.Fatalf("first = %v, %v", resp, err)
		}
		clock.Store(int64(11 * time.Minute))
		defer clock.Store(0)
		n.Submit(t, p.Client, call("put", "y", "1"), p)
		if resp, err := c.Recv(); err != nil || resp.GetStatus() != commonpb.Status_FORBIDDEN {
			t.Errorf("after the certificate's end = %v, %v", resp, err)
		}
	})
	t.Run("private data", func(t *testing.T) {
		c, err := client.DeliverWithPrivateData(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Recv(); err == io.EOF || status.Code(err) != codes.Unimplemented {
			t.Errorf("DeliverWithPrivateData = %v", err)
		}
	})
	t.Run("the client leaves", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c, err := client.Deliver(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Send(seek(t, p.Client, net.ChannelID, coming, specified(1<<40))); err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := c.Recv(); status.Code(err) != codes.Canceled {
			t.Errorf("after leaving = %v", err)
		}
	})
}

func fabricBlock(t testing.TB, number int) *commonpb.Block {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "ledger", "testdata", "fabric", fmt.Sprintf("block-%06d.pb", number)))
	if err != nil {
		t.Fatal(err)
	}
	b := &commonpb.Block{}
	if err := proto.Unmarshal(raw, b); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestFilterFabricBlocks filters real blocks, with malformed and forged
// transactions among them.
func TestFilterFabricBlocks(t *testing.T) {
	events := 0
	for number := range 12 {
		b := fabricBlock(t, number)
		flags := b.GetMetadata().GetMetadata()[commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER]
		got, err := deliver.Filter("mychannel", b)
		if err != nil {
			t.Fatalf("block %d: %v", number, err)
		}
		if got.GetNumber() != uint64(number) || len(got.GetFilteredTransactions()) > len(flags) {
			t.Errorf("block %d: %d transactions of %d", number, len(got.GetFilteredTransactions()), len(flags))
		}
		if number != 6 && len(got.GetFilteredTransactions()) != len(flags) {
			t.Errorf("block %d: %d transactions, want %d", number, len(got.GetFilteredTransactions()), len(flags))
		}
		for i, tx := range got.GetFilteredTransactions() {
			if number != 6 && tx.GetTxValidationCode() != peerpb.TxValidationCode(flags[i]) {
				t.Errorf("%d:%d: %s, want %s", number, i, tx.GetTxValidationCode(), peerpb.TxValidationCode(flags[i]))
			}
			for _, a := range tx.GetTransactionActions().GetChaincodeActions() {
				events++
				if a.GetChaincodeEvent().GetPayload() != nil {
					t.Errorf("%d:%d: an event has its payload", number, i)
				}
			}
		}
	}
	if events < 2 {
		t.Errorf("%d events, want 2 at least", events)
	}
}

func FuzzFilter(f *testing.F) {
	for _, number := range []int{1, 7, 11} {
		raw, err := proto.Marshal(fabricBlock(f, number))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte{0x0a, 0x00})
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := &commonpb.Block{}
		if proto.Unmarshal(raw, b) != nil {
			return
		}
		if got, err := deliver.Filter("c", b); err == nil && len(got.GetFilteredTransactions()) > len(b.GetData().GetData()) {
			t.Errorf("%d transactions of %d", len(got.GetFilteredTransactions()), len(b.GetData().GetData()))
		}
	})
}
