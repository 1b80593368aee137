package gateway

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"strongroom/msp"
	"strongroom/wire/peerpb"
)

// answering is a peer that endorses a payload, or fails with an empty one.
func answering(org, address, payload string, asked *atomic.Int32) Endorser {
	return Endorser{MSPID: msp.ID(org), Address: address, Process: func(context.Context, *peerpb.SignedProposal) (*peerpb.ProposalResponse, error) {
		asked.Add(1)
		if payload == "" {
			return nil, status.Error(codes.Unavailable, "down")
		}
		return &peerpb.ProposalResponse{
			Response: &peerpb.Response{Status: 200}, Payload: []byte(payload),
			Endorsement: &peerpb.Endorsement{Endorser: []byte(org + address)},
		}, nil
	}}
}

func TestCollect(t *testing.T) {
	tests := []struct {
		name    string
		peers   [][3]string // organisation, address, payload
		layouts []Layout
		want    Layout // nil: none is completed
		asked   int32
		details int
	}{
		{"both answer", [][3]string{{"A", "1", "p"}, {"B", "1", "p"}}, []Layout{{"A": 1, "B": 1}}, Layout{"A": 1, "B": 1}, 2, 0},
		{"the second peer of an organisation stands in", [][3]string{{"A", "1", ""}, {"A", "2", "p"}}, []Layout{{"A": 1}}, Layout{"A": 1}, 2, 1},
		{"the next layout", [][3]string{{"A", "1", "p"}, {"B", "1", ""}, {"C", "1", "p"}}, []Layout{{"A": 1, "B": 1}, {"A": 1, "C": 1}}, Layout{"A": 1, "C": 1}, 3, 1},
		{"two of one organisation", [][3]string{{"A", "1", "p"}, {"A", "2", "p"}}, []Layout{{"A": 2}}, Layout{"A": 2}, 2, 0},
		{"too few peers", [][3]string{{"A", "1", "p"}}, []Layout{{"A": 2}}, nil, 0, 0},
		{"all down", [][3]string{{"A", "1", ""}, {"B", "1", ""}}, []Layout{{"A": 1}, {"B": 1}}, nil, 2, 2},
		{"nobody is needed", nil, []Layout{{}}, Layout{}, 0, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var asked atomic.Int32
			var peers []Endorser
			for _, p := range test.peers {
				peers = append(peers, answering(p[0], p[1], p[2], &asked))
			}
			c := newCollection()
			got, err := collect(t.Context(), test.layouts, c, newPool(peers), func(ctx context.Context, e Endorser) bool {
				resp, err := e.Process(ctx, nil)
				if v := judge(resp, err); v.code != codes.OK {
					c.fail(e, v.text)
					return false
				}
				return c.add(e, resp)
			})
			if (test.want == nil) != errors.Is(err, errIncomplete) || test.want != nil && got.key() != test.want.key() {
				t.Errorf("collect = %v, %v, want %v", got, err, test.want)
			}
			if asked.Load() != test.asked || len(c.details) != test.details {
				t.Errorf("%d peers were asked and %d details given, want %d and %d", asked.Load(), len(c.details), test.asked, test.details)
			}
			if test.want != nil && len(c.endorsements(got)) != test.want.size() {
				t.Errorf("%d endorsements, want %d", len(c.endorsements(got)), test.want.size())
			}
		})
	}
}

func TestJudge(t *testing.T) {
	answer := func(status int32, payload []byte) *peerpb.ProposalResponse {
		return &peerpb.ProposalResponse{Response: &peerpb.Response{Status: status, Message: "m"}, Payload: payload}
	}
	tests := []struct {
		name string
		resp *peerpb.ProposalResponse
		err  error
		want verdict
	}{
		{"endorsed", answer(200, []byte("p")), nil, verdict{code: codes.OK}},
		{"a status below 400", answer(399, []byte("p")), nil, verdict{code: codes.OK}},
		{"of the chaincode", answer(500, []byte("p")), nil, verdict{code: codes.Unknown, text: "chaincode response 500, m"}},
		{"of the chaincode, 4xx", answer(404, nil), nil, verdict{code: codes.Unknown, text: "chaincode response 404, m"}},
		{"of the peer", answer(500, nil), nil, verdict{code: codes.Aborted, text: "m", retry: true}},
		{"unreachable", nil, status.Error(codes.Unavailable, "down"), verdict{code: codes.Unavailable, text: "down", retry: true}},
		{"refused", nil, status.Error(codes.PermissionDenied, "no"), verdict{code: codes.FailedPrecondition, text: "no"}},
		{"refused by a Fabric peer at hand", answer(500, nil), errors.New("no"), verdict{code: codes.FailedPrecondition, text: "internal error: the peer's log says more"}},
		{"nothing", nil, nil, verdict{code: codes.Aborted, text: "the peer's answer has no response", retry: true}},
	}
	for _, test := range tests {
		if got := judge(test.resp, test.err); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}
