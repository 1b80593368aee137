# METADATA
# title: Who may call which function
# description: >-
#   Asked for every request that names a chaincode's function: its first argument.
#   Functions that move value need an attribute that the organisation's Fabric CA wrote
#   into the caller's certificate. A transfer above a limit needs one more, and some
#   functions are for office hours.
package strongroom.acl.function

default allow := false

# What a caller needs to have, by chaincode and function: attribute and value.
required := {"assets": {
	"TransferAsset": {"attribute": "trader", "value": "true"},
	"DeleteAsset": {"attribute": "custodian", "value": "true"},
}}

allow if not needed

allow if input.caller.attributes[needed.attribute] == needed.value

# Contracts of fabric-contract-api may be called with the contract's name before the
# function's: "AssetContract:TransferAsset" is TransferAsset.
needed := required[input.chaincode][name]

name := parts[count(parts) - 1] if parts := split(input.function, ":")

deny contains "the contract's metadata is for administrators" if {
	input.function == "org.hyperledger.fabric:GetMetadata"
	input.caller.role != "admin"
}

# TransferAsset(asset, recipient, amount): the amount is text, as all arguments are.
limit := 10000

deny contains sprintf("a transfer above %d is for principals", [limit]) if {
	name == "TransferAsset"
	amount > limit
	object.get(input.caller.attributes, "principal", "") != "true"
}

deny contains "the amount is not a whole number" if {
	name == "TransferAsset"
	not amount
}

amount := to_number(input.args[2]) if regex.match(`^[0-9]{1,15}$`, input.args[2])

office := [{"zone": "Europe/Zurich", "days": ["mon", "tue", "wed", "thu", "fri"], "from": "08:00", "to": "18:00"}]

# Conditions are checked outside of Rego, at each request.
conditions contains {"open": office, "reason": "assets are deleted in office hours"} if name == "DeleteAsset"
