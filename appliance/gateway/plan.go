package gateway

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"strongroom/appliance/rpcerr"
	"strongroom/msp"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/peerpb"
)

// Endorser is one endorsing peer: this one or a remote one.
type Endorser struct {
	MSPID   msp.ID
	Address string
	// Process asks the peer to endorse. The local peer may return a response and an
	// error; a remote one returns one of them.
	Process func(ctx context.Context, proposal *peerpb.SignedProposal) (*peerpb.ProposalResponse, error)
}

// Remote makes an Endorser of a gRPC client.
func Remote(mspID msp.ID, address string, client peerpb.EndorserClient) Endorser {
	return Endorser{MSPID: mspID, Address: address, Process: func(ctx context.Context, p *peerpb.SignedProposal) (*peerpb.ProposalResponse, error) {
		return client.ProcessProposal(ctx, p)
	}}
}

// verdict is what a peer's answer means for the gateway (Fabric's
// internal/pkg/gateway, responseStatus).
type verdict struct {
	code  codes.Code // OK: an endorsement or an evaluated result
	text  string
	retry bool // another peer may answer better
}

// judge reads an answer. A gRPC error with the code of a client's fault is no
// reason to ask another peer; other gRPC errors are.
func judge(resp *peerpb.ProposalResponse, err error) verdict {
	if err != nil {
		switch code := status.Code(rpcerr.Status(err)); code {
		case codes.PermissionDenied, codes.InvalidArgument, codes.Unauthenticated:
			return verdict{code: codes.FailedPrecondition, text: message(err)}
		default:
			if resp.GetResponse() != nil {
				return verdict{code: codes.FailedPrecondition, text: message(err)}
			}
			return verdict{code: codes.Unavailable, text: message(err), retry: true}
		}
	}
	r := resp.GetResponse()
	switch st := r.GetStatus(); {
	case r == nil:
		return verdict{code: codes.Aborted, text: "the peer's answer has no response", retry: true}
	case st >= 200 && st < 400:
		return verdict{code: codes.OK}
	case st == 500 && resp.GetPayload() == nil:
		// From the peer, not from the chaincode.
		return verdict{code: codes.Aborted, text: r.GetMessage(), retry: true}
	default:
		return verdict{code: codes.Unknown, text: fmt.Sprintf("chaincode response %d, %s", st, r.GetMessage())}
	}
}

// message is the text of a gRPC error without its code, or of any other error.
func message(err error) string {
	if st, ok := status.FromError(rpcerr.Status(err)); ok {
		return st.Message()
	}
	return err.Error()
}

// collection gathers endorsements of one proposal over the same payload.
type collection struct {
	mu        sync.Mutex
	payload   []byte
	byOrg     map[msp.ID][]*peerpb.Endorsement
	order     []*peerpb.Endorsement
	seen      map[string]bool // by serialized endorser
	details   []protoadapt.MessageV1
	disagreed bool
}

func newCollection() *collection {
	return &collection{byOrg: map[msp.ID][]*peerpb.Endorsement{}, seen: map[string]bool{}}
}

// add takes an endorsement. It refuses one over another payload.
func (c *collection) add(from Endorser, resp *peerpb.ProposalResponse) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case resp.GetEndorsement() == nil:
		c.details = append(c.details, detail(from, "the peer's answer holds no endorsement"))
		return false
	case c.payload == nil:
		c.payload = resp.GetPayload()
	case !bytes.Equal(c.payload, resp.GetPayload()):
		c.disagreed = true
		c.details = append(c.details, detail(from, "ProposalResponsePayloads do not match: "+differences(c.payload, resp.GetPayload())))
		return false
	}
	if who := string(resp.GetEndorsement().GetEndorser()); !c.seen[who] {
		c.seen[who] = true
		c.byOrg[from.MSPID] = append(c.byOrg[from.MSPID], resp.GetEndorsement())
		c.order = append(c.order, resp.GetEndorsement())
	}
	return true
}

func (c *collection) fail(from Endorser, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.details = append(c.details, detail(from, text))
}

// missing is how many endorsements of an organisation a layout still needs.
func (c *collection) missing(l Layout) Layout {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := Layout{}
	for id, n := range l {
		if need := n - len(c.byOrg[id]); need > 0 {
			out[id] = need
		}
	}
	return out
}

// endorsements are those that a layout needs, in the order in which they came.
func (c *collection) endorsements(l Layout) []*peerpb.Endorsement {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.size() == 0 {
		return slices.Clone(c.order)
	}
	wanted := make(map[*peerpb.Endorsement]bool)
	for id, n := range l {
		for _, e := range c.byOrg[id][:n] {
			wanted[e] = true
		}
	}
	var out []*peerpb.Endorsement
	for _, e := range c.order {
		if wanted[e] {
			out = append(out, e)
		}
	}
	return out
}

func detail(e Endorser, text string) protoadapt.MessageV1 {
	return protoadapt.MessageV1Of(&gatewaypb.ErrorDetail{Address: e.Address, MspId: string(e.MSPID), Message: text})
}

// pool holds the endorsers that were not asked yet, by organisation.
type pool struct {
	mu    sync.Mutex
	byOrg map[msp.ID][]Endorser
}

func newPool(endorsers []Endorser) *pool {
	p := &pool{byOrg: map[msp.ID][]Endorser{}}
	for _, e := range endorsers {
		p.byOrg[e.MSPID] = append(p.byOrg[e.MSPID], e)
	}
	return p
}

func (p *pool) take(id msp.ID) (Endorser, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rest := p.byOrg[id]
	if len(rest) == 0 {
		return Endorser{}, false
	}
	p.byOrg[id] = rest[1:]
	return rest[0], true
}

// left is how many endorsers of an organisation were not asked yet.
func (p *pool) left(id msp.ID) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.byOrg[id])
}

// errIncomplete says that no layout could be completed.
var errIncomplete = errors.New("no layout was completed")

// collect asks endorsers in parallel until one of the layouts is complete, and
// returns it. Endorsements that came for an abandoned layout serve the next one.
func collect(ctx context.Context, layouts []Layout, c *collection, p *pool, ask func(context.Context, Endorser) bool) (Layout, error) {
	for _, l := range layouts {
		need := c.missing(l)
		possible := true
		for id, n := range need {
			possible = possible && p.left(id) >= n
		}
		if !possible {
			continue
		}
		var wg sync.WaitGroup
		for id, n := range need {
			for range n {
				wg.Go(func() {
					for ctx.Err() == nil {
						e, ok := p.take(id)
						if !ok || ask(ctx, e) {
							return
						}
					}
				})
			}
		}
		wg.Wait()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(c.missing(l)) == 0 {
			return l, nil
		}
	}
	return nil, errIncomplete
}

// prefer puts the layouts with an organisation's endorsement first: the gateway
// has already asked that organisation. Within each half the smaller come first.
func prefer(layouts []Layout, org msp.ID) []Layout {
	out := slices.Clone(layouts)
	slices.SortStableFunc(out, func(a, b Layout) int {
		return cmp.Or(-cmp.Compare(min(a[org], 1), min(b[org], 1)), cmp.Compare(a.size(), b.size()), strings.Compare(a.key(), b.key()))
	})
	return out
}
