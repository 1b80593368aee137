package strongroom.acl.chaincode_test

import data.strongroom.acl.chaincode

request(name, mspid) := {
	"resource": "peer/Propose", "channel": "main", "chaincode": name, "function": "Transfer",
	"caller": {"mspid": mspid, "name": "x", "subject": "CN=x", "issuer": "CN=ca", "role": "client", "ous": [], "attributes": {}},
	"remote": {"address": "", "tls_cert_sha256": ""},
}

test_owners if {
	chaincode.allow with input as request("assets", "Org2MSP")
	chaincode.allow with input as request("payroll", "Org1MSP")
	not chaincode.allow with input as request("payroll", "Org2MSP")
}

test_system_chaincodes_are_open if chaincode.allow with input as request("qscc", "Org2MSP")

test_unlisted if {
	chaincode.deny == {"chaincode other is not listed"} with input as request("other", "Org1MSP")
}
