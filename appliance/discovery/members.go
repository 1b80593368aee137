package discovery

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"strongroom/appliance/lifecycle"
	"strongroom/msp"
	"strongroom/wire/discoverypb"
	"strongroom/wire/gossippb"
	"strongroom/wire/msppb"
	"strongroom/wire/peerpb"
)

// member is a peer as a client is told of it.
type member struct {
	mspID      msp.ID
	address    string
	identity   []byte
	height     uint64
	seen       time.Time
	chaincodes []*gossippb.Chaincode
}

// members are this peer and those others of the channel that answered when they were
// asked last. Of another peer it is not known what it has installed: it is taken to
// have what its organisation approved.
func (s *Service) members(ch *Channel) ([]*member, error) {
	defined, err := ch.Chaincodes()
	if err != nil {
		return nil, err
	}
	own := s.cfg.Identity()
	self := &member{mspID: own.MSPID, address: s.cfg.Address, identity: own.Serialized, height: ch.Height, seen: s.cfg.Now()}
	for _, c := range defined {
		if c.Runnable {
			self.chaincodes = append(self.chaincodes, describe(c))
		}
	}
	out := []*member{self}
	for _, p := range ch.Peers() {
		if p.Identity == nil || p.Failure != nil {
			continue
		}
		m := &member{mspID: p.MSPID, address: p.Address, identity: p.Identity, height: p.Height, seen: p.Answered}
		for _, c := range defined {
			if c.Approved[p.MSPID] {
				m.chaincodes = append(m.chaincodes, describe(c))
			}
		}
		out = append(out, m)
	}
	return out, nil
}

func describe(c lifecycle.Chaincode) *gossippb.Chaincode {
	return &gossippb.Chaincode{Name: c.Name, Version: c.Version}
}

// runs tells whether a peer can run all the chaincodes of an interest. What belongs to
// the peer itself, such as `_lifecycle`, every peer runs.
func (m *member) runs(calls []*peerpb.ChaincodeCall, defined []lifecycle.Chaincode) bool {
	for _, call := range calls {
		known := slices.ContainsFunc(defined, func(c lifecycle.Chaincode) bool { return c.Name == call.GetName() })
		if known && !slices.ContainsFunc(m.chaincodes, func(c *gossippb.Chaincode) bool { return c.Name == call.GetName() }) {
			return false
		}
	}
	return true
}

// message is the peer as discovery.Peer. Its parts are gossip messages that are not
// signed: clients take them from the peer that they asked. inChannel adds what holds
// of one channel.
func (s *Service) message(m *member, channelID string) (*discoverypb.Peer, error) {
	pkiID, err := pkiID(m.identity)
	if err != nil {
		return nil, err
	}
	at := &gossippb.PeerTime{IncNum: uint64(s.started.UnixNano()), SeqNum: uint64(max(0, m.seen.Sub(s.started)))}
	out := &discoverypb.Peer{Identity: m.identity}
	out.MembershipInfo, err = envelope(&gossippb.GossipMessage{
		Tag: gossippb.GossipMessage_EMPTY,
		Content: &gossippb.GossipMessage_AliveMsg{AliveMsg: &gossippb.AliveMessage{
			Membership: &gossippb.Member{Endpoint: m.address, PkiId: pkiID}, Timestamp: at,
		}},
	})
	if err != nil || channelID == "" {
		return out, err
	}
	mac := sha256.Sum256(append(slices.Clone(pkiID), channelID...))
	out.StateInfo, err = envelope(&gossippb.GossipMessage{
		Tag: gossippb.GossipMessage_CHAN_OR_ORG,
		Content: &gossippb.GossipMessage_StateInfo{StateInfo: &gossippb.StateInfo{
			Timestamp: at, PkiId: pkiID, Channel_MAC: mac[:],
			Properties: &gossippb.Properties{LedgerHeight: m.height, Chaincodes: m.chaincodes},
		}},
	})
	return out, err
}

func envelope(m *gossippb.GossipMessage) (*gossippb.Envelope, error) {
	payload, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("gossip.GossipMessage: %w", err)
	}
	return &gossippb.Envelope{Payload: payload}, nil
}

// pkiID is Fabric's short name of a peer (internal/peer/gossip/mcs.go):
// SHA-256 of the MSP id and the certificate.
func pkiID(identity []byte) ([]byte, error) {
	id := &msppb.SerializedIdentity{}
	if err := proto.Unmarshal(identity, id); err != nil {
		return nil, fmt.Errorf("identity of a peer: %w", err)
	}
	sum := sha256.Sum256(append([]byte(id.GetMspid()), id.GetIdBytes()...))
	return sum[:], nil
}

// channelPeers answers a PeerMembershipQuery. A filter leaves those that can run its
// chaincodes.
func (s *Service) channelPeers(ch *Channel, filter *peerpb.ChaincodeInterest) (*discoverypb.QueryResult, error) {
	all, err := s.members(ch)
	if err != nil {
		return nil, err
	}
	defined, err := ch.Chaincodes()
	if err != nil {
		return nil, err
	}
	for _, call := range filter.GetChaincodes() {
		if !slices.ContainsFunc(defined, func(c lifecycle.Chaincode) bool { return c.Name == call.GetName() }) {
			return refuse("No metadata was found for chaincode %s in channel %s", call.GetName(), ch.Config.ID), nil
		}
	}
	kept := slices.DeleteFunc(all, func(m *member) bool { return !m.runs(filter.GetChaincodes(), defined) })
	return s.byOrg(kept, ch.Config.ID)
}

// localPeers answers a LocalPeerQuery: the peers of all channels, each once.
func (s *Service) localPeers() (*discoverypb.QueryResult, error) {
	own := s.cfg.Identity()
	all := []*member{{mspID: own.MSPID, address: s.cfg.Address, identity: own.Serialized, seen: s.cfg.Now()}}
	seen := map[string]bool{string(own.Serialized): true}
	for _, id := range s.cfg.Channels() {
		ch, ok := s.cfg.Channel(id)
		if !ok {
			continue
		}
		for _, p := range ch.Peers() {
			if p.Identity != nil && p.Failure == nil && !seen[string(p.Identity)] {
				seen[string(p.Identity)] = true
				all = append(all, &member{mspID: p.MSPID, address: p.Address, identity: p.Identity, seen: p.Answered})
			}
		}
	}
	return s.byOrg(all, "")
}

func (s *Service) byOrg(all []*member, channelID string) (*discoverypb.QueryResult, error) {
	out := &discoverypb.PeerMembershipResult{PeersByOrg: map[string]*discoverypb.Peers{}}
	for _, m := range all {
		p, err := s.message(m, channelID)
		if err != nil {
			return nil, err
		}
		org := out.PeersByOrg[string(m.mspID)]
		if org == nil {
			org = &discoverypb.Peers{}
			out.PeersByOrg[string(m.mspID)] = org
		}
		org.Peers = append(org.Peers, p)
	}
	return &discoverypb.QueryResult{Result: &discoverypb.QueryResult_Members{Members: out}}, nil
}

// endorsers answers a ChaincodeQuery: for each interest the layouts that satisfy its
// policies and the peers that can fill them. A group is an organisation.
func (s *Service) endorsers(ch *Channel, q *discoverypb.ChaincodeQuery) (*discoverypb.QueryResult, error) {
	if problem := malformed(q); problem != "" {
		return refuse("%s", problem), nil
	}
	all, err := s.members(ch)
	if err != nil {
		return nil, err
	}
	defined, err := ch.Chaincodes()
	if err != nil {
		return nil, err
	}
	out := &discoverypb.ChaincodeQueryResult{}
	for _, interest := range q.GetInterests() {
		d, problem, err := s.descriptor(ch, interest, all, defined)
		if err != nil {
			return nil, err
		}
		if problem != "" {
			return refuse("failed constructing descriptor for %v: %s", names(interest), problem), nil
		}
		out.Content = append(out.Content, d)
	}
	return &discoverypb.QueryResult{Result: &discoverypb.QueryResult_CcQueryRes{CcQueryRes: out}}, nil
}

// malformed is what is wrong with the form of a query, in Fabric's words; "" for nothing.
func malformed(q *discoverypb.ChaincodeQuery) string {
	if len(q.GetInterests()) == 0 {
		return "chaincode query must have at least one chaincode interest"
	}
	for _, interest := range q.GetInterests() {
		if len(interest.GetChaincodes()) == 0 {
			return "chaincode interest must contain at least one chaincode"
		}
		for _, c := range interest.GetChaincodes() {
			if c.GetName() == "" {
				return "chaincode name in interest cannot be empty"
			}
			if c.GetDisregardNamespacePolicy() && len(c.GetKeyPolicies()) == 0 && len(c.GetCollectionNames()) == 0 {
				return "requested to disregard chaincode " + strconv.Quote(c.GetName()) + "'s policy but key and collection policies are missing"
			}
		}
	}
	return ""
}

func names(interest *peerpb.ChaincodeInterest) []string {
	var out []string
	for _, c := range interest.GetChaincodes() {
		out = append(out, c.GetName())
	}
	return out
}

// descriptor says who can endorse what an interest names; problem is for the client.
func (s *Service) descriptor(ch *Channel, interest *peerpb.ChaincodeInterest, all []*member, defined []lifecycle.Chaincode) (d *discoverypb.EndorsementDescriptor, problem string, err error) {
	byOrg := map[msp.ID][]*member{}
	for _, m := range all {
		if m.runs(interest.GetChaincodes(), defined) {
			byOrg[m.mspID] = append(byOrg[m.mspID], m)
		}
	}
	layouts, err := ch.Layouts(interest, func(id msp.ID) bool { return len(byOrg[id]) > 0 })
	if err != nil {
		return nil, err.Error(), nil //nolint:nilerr // what the policies do not allow is the client's to know
	}
	d = &discoverypb.EndorsementDescriptor{Chaincode: interest.GetChaincodes()[0].GetName(), EndorsersByGroups: map[string]*discoverypb.Peers{}}
	for _, l := range layouts {
		quantities := map[string]uint32{}
		for id, n := range l {
			if len(byOrg[id]) >= n {
				quantities[group(id)] = uint32(n)
			}
		}
		if len(quantities) < len(l) {
			continue // an organisation has too few peers
		}
		d.Layouts = append(d.Layouts, &discoverypb.Layout{QuantitiesByGroup: quantities})
		for id := range l {
			if d.EndorsersByGroups[group(id)] != nil {
				continue
			}
			if d.EndorsersByGroups[group(id)], err = s.group(byOrg[id], ch.Config.ID); err != nil {
				return nil, "", err
			}
		}
	}
	if len(d.Layouts) == 0 {
		return nil, "no peer combination can satisfy the endorsement policy", nil
	}
	return d, "", nil
}

// group is the name of an organisation's group: clients look nothing up by it.
func group(id msp.ID) string {
	sum := sha256.Sum256([]byte(id))
	return "G" + hex.EncodeToString(sum[:4])
}

func (s *Service) group(members []*member, channelID string) (*discoverypb.Peers, error) {
	out := &discoverypb.Peers{}
	for _, m := range members {
		p, err := s.message(m, channelID)
		if err != nil {
			return nil, err
		}
		out.Peers = append(out.Peers, p)
	}
	return out, nil
}
