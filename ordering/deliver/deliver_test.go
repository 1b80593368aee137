package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

func block(number uint64, kind commonpb.HeaderType) *commonpb.Block {
	must := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			panic(err)
		}
		return b
	}
	payload := must(&commonpb.Payload{Header: &commonpb.Header{ChannelHeader: must(&commonpb.ChannelHeader{Type: int32(kind)})}})
	return &commonpb.Block{
		Header:   &commonpb.BlockHeader{Number: number, DataHash: []byte("hash")},
		Data:     &commonpb.BlockData{Data: [][]byte{must(&commonpb.Envelope{Payload: payload})}},
		Metadata: &commonpb.BlockMetadata{Metadata: [][]byte{[]byte("signatures")}},
	}
}

// wireStream keeps what a stream would put on the wire, decoded again.
type wireStream[R any, P interface {
	*R
	proto.Message
}] struct {
	t    *testing.T
	sent []P
}

func (s *wireStream[R, P]) Send(resp *R) error {
	raw, err := proto.Marshal(P(resp))
	if err != nil {
		return err
	}
	got := P(new(R))
	if err := proto.Unmarshal(raw, got); err != nil {
		return err
	}
	s.sent = append(s.sent, got)
	return nil
}

// TestBlocksOnTheWire: a response made of a block's bytes is the response made of
// its message.
func TestBlocksOnTheWire(t *testing.T) {
	for _, kind := range []commonpb.HeaderType{commonpb.HeaderType_ENDORSER_TRANSACTION, commonpb.HeaderType_CONFIG} {
		msg := block(7, kind)
		raw, err := proto.Marshal(msg)
		if err != nil {
			t.Fatal(err)
		}
		headers := &commonpb.Block{Header: msg.Header, Metadata: msg.Metadata}
		if kind == commonpb.HeaderType_CONFIG {
			headers = msg
		}
		for name, b := range map[string]*Block{"decoded": NewBlock(msg), "encoded": EncodedBlock(7, raw)} {
			if b.Number() != 7 {
				t.Errorf("%s: number %d", name, b.Number())
			}
			orderer := &wireStream[ordererpb.DeliverResponse, *ordererpb.DeliverResponse]{t: t}
			peer := &wireStream[peerpb.DeliverResponse, *peerpb.DeliverResponse]{t: t}
			for _, s := range []Sender{OrdererSender(orderer), PeerSender(peer)} {
				for _, headerOnly := range []bool{false, true, false} {
					if err := s.SendBlock(t.Context(), nil, nil, b, headerOnly); err != nil {
						t.Fatal(err)
					}
				}
				if err := s.SendStatus(commonpb.Status_SUCCESS); err != nil {
					t.Fatal(err)
				}
			}
			for i, want := range []*commonpb.Block{msg, headers, msg} {
				for _, got := range []*commonpb.Block{orderer.sent[i].GetBlock(), peer.sent[i].GetBlock()} {
					if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
						t.Errorf("%s, %s, response %d: %s", name, kind, i, diff)
					}
				}
			}
			if orderer.sent[3].GetStatus() != commonpb.Status_SUCCESS || peer.sent[3].GetStatus() != commonpb.Status_SUCCESS {
				t.Error("the status does not arrive")
			}
			if got, err := b.Message(); err != nil || !proto.Equal(got, msg) {
				t.Errorf("%s: message is %v, %v", name, got, err)
			}
		}
	}
	if _, err := EncodedBlock(1, []byte{0xff}).Message(); err == nil {
		t.Error("garbage is a block")
	}
}

// fakeChain is a chain of empty blocks.
type fakeChain struct {
	height    uint64
	sequence  uint64
	refuse    error
	asked     int
	onRequest func(n uint64)
}

func (c *fakeChain) Sequence() uint64 { return c.sequence }
func (c *fakeChain) Height() uint64   { return c.height }
func (c *fakeChain) Authorize(context.Context, *Request) error {
	c.asked++
	return c.refuse
}

func (c *fakeChain) Block(_ context.Context, n uint64) (*Block, error) {
	if c.onRequest != nil {
		c.onRequest(n)
	}
	if n >= c.height {
		return nil, fmt.Errorf("%w: going down", ErrUnavailable)
	}
	return NewBlock(&commonpb.Block{Header: &commonpb.BlockHeader{Number: n}}), nil
}

// requests is a stream's receiving half.
type requests []*commonpb.Envelope

func (r *requests) Recv() (*commonpb.Envelope, error) {
	if len(*r) == 0 {
		return nil, io.EOF
	}
	env := (*r)[0]
	*r = (*r)[1:]
	return env, nil
}

func seekEnvelope(t testing.TB, seek *ordererpb.SeekInfo) *commonpb.Envelope {
	t.Helper()
	must := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return &commonpb.Envelope{Payload: must(&commonpb.Payload{
		Header: &commonpb.Header{ChannelHeader: must(&commonpb.ChannelHeader{ChannelId: "main", Timestamp: timestamppb.Now()})},
		Data:   must(seek),
	})}
}

func specified(n uint64) *ordererpb.SeekPosition {
	return &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Specified{Specified: &ordererpb.SeekSpecified{Number: n}}}
}

// serve runs one stream and returns what it sent: block numbers, then statuses.
func serve(t *testing.T, c *fakeChain, envs ...*commonpb.Envelope) (blocks []uint64, statuses []commonpb.Status, err error) {
	t.Helper()
	in := requests(envs)
	out := &wireStream[ordererpb.DeliverResponse, *ordererpb.DeliverResponse]{t: t}
	err = Serve(t.Context(), &in, OrdererSender(out), Options{Chain: func(id string) (Chain, bool) { return c, id == "main" }})
	for _, resp := range out.sent {
		if b := resp.GetBlock(); b != nil {
			blocks = append(blocks, b.Header.Number)
		} else {
			statuses = append(statuses, resp.GetStatus())
		}
	}
	return blocks, statuses, err
}

func TestServeManyRequests(t *testing.T) {
	c := &fakeChain{height: 5}
	seek := func(from, to uint64) *commonpb.Envelope {
		return seekEnvelope(t, &ordererpb.SeekInfo{Start: specified(from), Stop: specified(to)})
	}
	blocks, statuses, err := serve(t, c, seek(0, 1), seek(3, 3), seek(2, 1), seek(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]uint64{0, 1, 3}, blocks); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]commonpb.Status{200, 200, 400}, statuses); diff != "" {
		t.Errorf("the request after a refused one is answered, or not: %s", diff)
	}
}

func TestServeAsksAgain(t *testing.T) {
	all := seekEnvelope(t, &ordererpb.SeekInfo{Start: specified(0), Stop: specified(9)})
	c := &fakeChain{height: 10}
	if _, _, err := serve(t, c, all); err != nil || c.asked != 1 {
		t.Errorf("asked %d times, %v: once is due while the configuration stays", c.asked, err)
	}
	c = &fakeChain{height: 10}
	c.onRequest = func(n uint64) {
		if n == 4 {
			c.sequence, c.refuse = 1, fmt.Errorf("%w: removed", ErrForbidden)
		}
	}
	blocks, statuses, err := serve(t, c, all)
	if err != nil || len(blocks) != 4 || len(statuses) != 1 || statuses[0] != commonpb.Status_FORBIDDEN {
		t.Errorf("got blocks %v, statuses %v, %v", blocks, statuses, err)
	}
	for reason, want := range map[error]commonpb.Status{
		ErrForbidden: commonpb.Status_FORBIDDEN, errors.New("device"): commonpb.Status_SERVICE_UNAVAILABLE,
	} {
		if _, statuses, err := serve(t, &fakeChain{height: 1, refuse: reason}, all); err != nil || len(statuses) != 1 || statuses[0] != want {
			t.Errorf("%v gives %v, %v", reason, statuses, err)
		}
	}
	blocks, statuses, err = serve(t, &fakeChain{height: 3}, all)
	if err != nil || len(blocks) != 3 || statuses[0] != commonpb.Status_SERVICE_UNAVAILABLE {
		t.Errorf("a chain that goes down gives %v, %v, %v", blocks, statuses, err)
	}
	if _, statuses, _ := serve(t, &fakeChain{}, all); statuses[0] != commonpb.Status_NOT_FOUND {
		t.Errorf("a chain without a block gives %v", statuses)
	}
}

func FuzzRequest(f *testing.F) {
	seed, err := proto.Marshal(seekEnvelope(f, &ordererpb.SeekInfo{Start: specified(1), Stop: specified(2)}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, uint64(3))
	f.Add([]byte{}, uint64(0))
	f.Fuzz(func(t *testing.T, raw []byte, height uint64) {
		env := new(commonpb.Envelope)
		if proto.Unmarshal(raw, env) != nil {
			return
		}
		r, err := parseRequest(env)
		if err != nil {
			return
		}
		_ = r.checkFresh(time.Unix(0, 0), time.Minute)
		_ = r.checkBinding(nil)
		from, to, err := seekRange(r.Seek, height)
		if err == nil && from > height {
			t.Errorf("seek of %d to %d in a chain of %d blocks", from, to, height)
		}
	})
}
