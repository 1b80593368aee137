package endorser_test

import (
	"testing"

	net "strongroom/appliance/endorser/endorsertest"
	"strongroom/wire/peerpb"
)

// BenchmarkProcessProposal is the endorser without the client's connection: from a
// signed proposal to an endorsement, with the token, the guard, the ledger and a
// chaincode as a service.
func BenchmarkProcessProposal(b *testing.B) {
	n := net.Start(b, nil, "Org1MSP")
	n.Deploy(b, "kv")
	p := n.Peers[0]
	proposals := make([]*peerpb.SignedProposal, 64)
	for i := range proposals {
		proposals[i] = net.Propose(b, p.Client, net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args("put", string(rune('a'+i)), "value")})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		resp, err := p.Endorser.ProcessProposal(b.Context(), proposals[i%len(proposals)])
		if err != nil || resp.GetEndorsement() == nil {
			b.Fatal(resp, err)
		}
	}
}
