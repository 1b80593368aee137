package appliance

import (
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// elsewhere says of Fabric's services that a node may not offer what to do instead.
var elsewhere = map[string]string{
	"gossip.Gossip":              "this peer does not gossip: it takes blocks from the ordering service and knows other peers by the channel's configuration",
	"protos.Snapshot":            "snapshots are not offered: join a channel with its genesis block",
	"protos.ChaincodeSupport":    "chaincode does not dial in here: run it as a service and install a package of type ccaas",
	"orderer.AtomicBroadcast":    "this is a peer: ask an ordering node, or set ordering.embedded",
	"orderer.Cluster":            "this ordering node is not part of a cluster",
	"orderer.ClusterNodeService": "this ordering node is not part of a cluster",
	"protos.Endorser":            "this is an ordering node: ask a peer",
	"protos.Deliver":             "this is an ordering node: ask a peer, or orderer.AtomicBroadcast here",
	"gateway.Gateway":            "this is an ordering node: ask a peer",
	"discovery.Discovery":        "this is an ordering node: ask a peer",
}

// refuseUnknown answers calls of services and methods that the node does not offer.
func refuseUnknown(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if why := elsewhere[service]; why != "" {
		return status.Error(codes.Unimplemented, why)
	}
	return status.Errorf(codes.Unimplemented, "this node does not offer %.200q", method)
}
