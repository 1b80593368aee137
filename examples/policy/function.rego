# METADATA
# title: Who may call which function
# description: >-
#   Asked for every request that names a chaincode's function: its first argument.
#   Functions that move value need an attribute that the organisation's Fabric CA wrote
#   into the caller's certificate.
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
