# METADATA
# title: Who may make which call, by its connection alone
# description: >-
#   Asked for each gRPC call before a service sees it: of the caller only the address
#   and the TLS certificate are known. This example admits the office's and the
#   consortium's networks, keeps chaincode that dials in on this host, and bounds what
#   one address may ask for. Rates and times are conditions: they are checked outside
#   of Rego, so that a decision can be remembered.
package strongroom.acl.connection

default allow := false

networks := {"10.0.0.0/8", "127.0.0.0/8", "::1/128"}

allow if {
	is_address
	some network in networks
	net.cidr_contains(network, input.remote.address)
}

deny contains "chaincode dials in from this host alone" if {
	input.service == "protos.ChaincodeSupport"
	not local
}

deny contains "the ordering service wants a TLS client certificate" if {
	input.service == "orderer.AtomicBroadcast"
	input.remote.tls.sha256 == ""
}

conditions contains {
	"rate": {"name": "calls", "per": "address", "calls": 2000, "seconds": 1},
	"reason": "too many calls from one address",
} if {
	not local
}

is_address if regex.match(`^[0-9a-fA-F.:]+$`, input.remote.address)

local if {
	is_address
	some network in {"127.0.0.0/8", "::1/128"}
	net.cidr_contains(network, input.remote.address)
}
