package strongroom.acl.connection_test

import data.strongroom.acl.connection

call(service, address, tls) := {"service": service, "method": "Any", "remote": {"address": address, "tls": tls}}

none := {"sha256": "", "subject": "", "name": "", "issuer": "", "ous": [], "dns_names": []}

certificate := {"sha256": "00", "subject": "CN=peer1", "name": "peer1", "issuer": "CN=tlsca", "ous": [], "dns_names": []}

test_the_office_may_call if {
	connection.allow with input as call("gateway.Gateway", "10.1.2.3", none)
	count(connection.deny) == 0 with input as call("gateway.Gateway", "10.1.2.3", none)
}

test_others_may_not if {
	not connection.allow with input as call("gateway.Gateway", "192.0.2.7", none)
	not connection.allow with input as call("gateway.Gateway", "", none)
}

test_chaincode_dials_in_from_this_host if {
	connection.deny["chaincode dials in from this host alone"] with input as call("protos.ChaincodeSupport", "10.1.2.3", none)
	count(connection.deny) == 0 with input as call("protos.ChaincodeSupport", "::1", none)
}

test_ordering_wants_a_certificate if {
	count(connection.deny) == 1 with input as call("orderer.AtomicBroadcast", "10.1.2.3", none)
	count(connection.deny) == 0 with input as call("orderer.AtomicBroadcast", "10.1.2.3", certificate)
}

test_a_rate_for_all_but_this_host if {
	some limit in connection.conditions with input as call("gateway.Gateway", "10.1.2.3", none)
	limit.rate.calls == 2000
	count(connection.conditions) == 0 with input as call("gateway.Gateway", "127.0.0.1", none)
}
