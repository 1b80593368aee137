package strongroom.acl.channel_test

import data.strongroom.acl.channel

request(name, mspid, resource, ous) := {
	"resource": resource, "channel": name, "chaincode": "", "function": "",
	"caller": {"mspid": mspid, "name": "x", "subject": "CN=x", "issuer": "CN=ca", "role": "client", "ous": ous, "attributes": {}},
	"remote": {"address": "", "tls_cert_sha256": ""},
}

test_members_only if {
	channel.allow with input as request("settlement", "Org1MSP", "peer/Propose", ["client"])
	not channel.allow with input as request("settlement", "Org2MSP", "peer/Propose", ["client"])
}

test_unlisted_channel_is_closed if {
	not channel.allow with input as request("new", "Org1MSP", "peer/Propose", ["client"])
}

test_auditors_read if {
	count(channel.deny) == 0 with input as request("main", "Org1MSP", "event/Block", ["client", "auditors"])
	channel.deny == {"auditors only read: peer/Propose is not reading"} with input as request("main", "Org1MSP", "peer/Propose", ["client", "auditors"])
}
