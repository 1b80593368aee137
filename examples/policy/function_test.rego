package strongroom.acl.function_test

import data.strongroom.acl.function

request(name, attributes) := {
	"resource": "peer/Propose", "channel": "main", "chaincode": "assets", "function": name,
	"caller": {"mspid": "Org1MSP", "name": "x", "subject": "CN=x", "issuer": "CN=ca", "role": "client", "ous": [], "attributes": attributes},
	"remote": {"address": "", "tls_cert_sha256": ""},
}

test_reading_needs_nothing if function.allow with input as request("ReadAsset", {})

test_transfer_needs_a_trader if {
	function.allow with input as request("TransferAsset", {"trader": "true"})
	not function.allow with input as request("TransferAsset", {"trader": "false"})
	not function.allow with input as request("TransferAsset", {"custodian": "true"})
	not function.allow with input as request("TransferAsset", {})
}

test_contract_prefix_is_no_way_round if {
	not function.allow with input as request("AssetContract:TransferAsset", {})
	not function.allow with input as request("a:b:DeleteAsset", {"trader": "true"})
	function.allow with input as request("AssetContract:DeleteAsset", {"custodian": "true"})
}

test_metadata_is_for_administrators if {
	count(function.deny) == 1 with input as request("org.hyperledger.fabric:GetMetadata", {})
}
