package strongroom.acl.ordering_test

import data.strongroom.acl.ordering

request(resource, role) := {
	"resource": resource, "channel": "main", "chaincode": "", "function": "",
	"caller": {"mspid": "Org1MSP", "name": "x", "subject": "CN=x", "issuer": "CN=ca", "role": role, "ous": [role], "attributes": {}},
	"remote": {"address": "", "tls_cert_sha256": ""},
}

test_clients_broadcast if ordering.allow with input as request("orderer/Broadcast", "client")

test_peers_pull_blocks if ordering.allow with input as request("orderer/Deliver", "peer")

test_clients_do_not_pull_blocks if not ordering.allow with input as request("orderer/Deliver", "client")

test_nothing_else_is_open if not ordering.allow with input as request("orderer/Unknown", "admin")
