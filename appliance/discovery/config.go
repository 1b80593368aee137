package discovery

import (
	"fmt"
	"net"
	"strconv"

	"google.golang.org/protobuf/proto"

	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/discoverypb"
	"strongroom/wire/msppb"
)

// describe answers a ConfigQuery: the channel's MSPs and where its orderers are. An
// organisation's own orderer addresses go before those of the whole channel.
func (c *Channel) describe() (*discoverypb.QueryResult, error) {
	out := &discoverypb.ConfigResult{Msps: map[string]*msppb.FabricMSPConfig{}, Orderers: map[string]*discoverypb.Endpoints{}}
	groups := c.Config.Proto.GetChannelGroup().GetGroups()
	for _, section := range []string{"Orderer", "Application"} {
		for name, org := range groups[section].GetGroups() {
			if err := addMSP(out.Msps, org); err != nil {
				return nil, fmt.Errorf("organisation %q: %w", name, err)
			}
		}
	}
	own := map[msp.ID][]string{}
	var shared []string
	for _, e := range c.Config.OrdererEndpoints {
		if e.MSPID == "" {
			shared = append(shared, e.Address)
		} else {
			own[e.MSPID] = append(own[e.MSPID], e.Address)
		}
	}
	for _, org := range c.Config.OrdererOrganizations {
		addresses := own[org.MSPID]
		if len(own) == 0 {
			addresses = shared
		}
		endpoints := &discoverypb.Endpoints{}
		for _, address := range addresses {
			if e, ok := endpoint(address); ok {
				endpoints.Endpoint = append(endpoints.Endpoint, e)
			}
		}
		out.Orderers[string(org.MSPID)] = endpoints
	}
	return &discoverypb.QueryResult{Result: &discoverypb.QueryResult_ConfigResult{ConfigResult: out}}, nil
}

func addMSP(msps map[string]*msppb.FabricMSPConfig, org *commonpb.ConfigGroup) error {
	outer, inner := &msppb.MSPConfig{}, &msppb.FabricMSPConfig{}
	if err := proto.Unmarshal(org.GetValues()["MSP"].GetValue(), outer); err != nil {
		return fmt.Errorf("msp.MSPConfig: %w", err)
	}
	if outer.GetType() != 0 {
		return nil // of another kind than X.509: of no use to a client
	}
	if err := proto.Unmarshal(outer.GetConfig(), inner); err != nil {
		return fmt.Errorf("msp.FabricMSPConfig: %w", err)
	}
	msps[inner.GetName()] = inner
	return nil
}

func endpoint(address string) (*discoverypb.Endpoint, bool) {
	host, digits, err := net.SplitHostPort(address)
	if err != nil {
		return nil, false
	}
	port, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		return nil, false
	}
	return &discoverypb.Endpoint{Host: host, Port: uint32(port)}, true
}
