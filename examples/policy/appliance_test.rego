package strongroom.acl.appliance_test

import data.strongroom.acl.appliance

propose := {
	"resource": "peer/Propose", "channel": "main", "chaincode": "assets", "function": "CreateAsset",
	"caller": {"mspid": "Org1MSP", "name": "alice", "subject": "CN=alice,OU=client", "issuer": "CN=ca.org1", "role": "client", "ous": ["client"], "attributes": {}},
	"remote": {"address": "192.0.2.7", "tls_cert_sha256": ""},
}

join := object.union(propose, {
	"resource": "cscc/JoinChain",
	"remote": {"address": "10.20.3.4", "tls_cert_sha256": "ab12"},
})

from(request, address) := object.union(request, {"remote": object.union(request.remote, {"address": address})})

test_member_may_propose_from_anywhere if {
	appliance.allow with input as propose
	count(appliance.deny) == 0 with input as propose
}

test_stranger_is_not_allowed if {
	not appliance.allow with input as object.union(propose, {"caller": {"mspid": "EvilMSP"}})
}

test_administration_from_the_management_network if {
	appliance.allow with input as join
	count(appliance.deny) == 0 with input as join
	count(appliance.deny) == 0 with input as from(join, "::1")
}

test_administration_from_outside if {
	count(appliance.deny) == 1 with input as from(join, "192.0.2.7")
}

test_administration_without_an_address if {
	count(appliance.deny) == 1 with input as from(join, "")
	count(appliance.deny) == 1 with input as from(join, "@")
}

test_administration_without_a_certificate if {
	count(appliance.deny) == 1 with input as object.union(join, {"remote": {"tls_cert_sha256": ""}})
}
