// Package acl decides who may do what on a peer or an ordering node. A request
// names a resource by Fabric's own name ("peer/Propose"); Fabric's policy for it
// decides first, with Fabric's defaults and the channel's own ACLs. Then come the
// layers, in this order, each for requests of its scope:
//
//	connection  every gRPC call, before a service sees it (Guard.Connect)
//	appliance   every request
//	ordering    the ordering service's resources (orderer/…)
//	channel     requests on a channel
//	chaincode   requests that name a chaincode, system chaincodes among them
//	function    requests that name a function of a chaincode
//
// A layer that has a team's Rego file must allow too: any layer may deny, and none
// can allow what another denied. A layer without a file adds nothing. Undefined and
// failed evaluations deny.
//
// # The Rego of a layer
//
// The file's package is strongroom.acl.<layer>. It holds "default allow := false"
// and rules for allow, and may hold "deny contains reason". Its input is described
// by input.schema.json, against which it is checked when it is loaded; every field
// is always there, and empty when it has no value. There is no time in it: decisions
// are remembered for as long as what they depend on stays the same. When, and how often,
// is said by conditions (policy.Condition), which the guard checks at each request.
package acl
