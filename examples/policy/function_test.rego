package strongroom.acl.function_test

import data.strongroom.acl.function

request(name, attributes) := {
	"resource": "peer/Propose", "channel": "main", "chaincode": "assets", "function": name, "args": [], "binary_args": [],
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

transfer(amount, attributes) := object.union(request("TransferAsset", attributes), {"args": ["a1", "bob", amount]})

test_large_transfers_are_for_principals if {
	count(function.deny) == 0 with input as transfer("10000", {"trader": "true"})
	count(function.deny) == 1 with input as transfer("10001", {"trader": "true"})
	count(function.deny) == 0 with input as transfer("10001", {"trader": "true", "principal": "true"})
}

test_an_amount_is_a_whole_number if {
	every amount in {"", "-1", "1e9", "ten", "1.5"} {
		function.deny["the amount is not a whole number"] with input as transfer(amount, {"trader": "true"})
	}
	function.deny["the amount is not a whole number"] with input as request("TransferAsset", {"trader": "true"})
}

test_assets_are_deleted_in_office_hours if {
	some hours in function.conditions with input as request("DeleteAsset", {"custodian": "true"})
	count(hours.open) == 1
	count(function.conditions) == 0 with input as request("ReadAsset", {})
}
