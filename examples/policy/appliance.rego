# METADATA
# title: Who may reach this appliance at all
# description: >-
#   The first layer: asked for every request, whatever it is about. This example
#   admits the consortium's organisations and keeps the node's own administration
#   inside the management network and behind a client certificate.
package strongroom.acl.appliance

default allow := false

organisations := {"Org1MSP", "Org2MSP", "OrdererMSP"}

management := {"10.20.0.0/16", "127.0.0.0/8", "::1/128"}

administration := {
	"cscc/JoinChain",
	"cscc/JoinChainBySnapshot",
	"_lifecycle/InstallChaincode",
	"_lifecycle/ApproveChaincodeDefinitionForMyOrg",
}

allow if input.caller.mspid in organisations

deny contains sprintf("%s is administration and comes from %q, outside of the management network", [input.resource, input.remote.address]) if {
	input.resource in administration
	not from_management
}

deny contains sprintf("%s is administration and needs a TLS client certificate", [input.resource]) if {
	input.resource in administration
	input.remote.tls_cert_sha256 == ""
}

# An address that is none (an empty one, a socket's path) is not in the network. The
# check comes first because an error of net.cidr_contains would refuse everything.
from_management if {
	regex.match(`^[0-9a-fA-F.:]+$`, input.remote.address)
	some network in management
	net.cidr_contains(network, input.remote.address)
}
