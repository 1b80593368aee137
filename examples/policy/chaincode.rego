# METADATA
# title: Who may call which chaincode
# description: >-
#   Asked for every request that names a chaincode, Fabric's own system chaincodes
#   among them. One organisation's chaincode is for that organisation.
package strongroom.acl.chaincode

default allow := false

system := {"_lifecycle", "cscc", "qscc"}

owners := {
	"assets": {"Org1MSP", "Org2MSP"},
	"payroll": {"Org1MSP"},
}

allow if input.chaincode in system

allow if input.caller.mspid in owners[input.chaincode]

deny contains sprintf("chaincode %s is not listed", [input.chaincode]) if {
	not input.chaincode in system
	not input.chaincode in object.keys(owners)
}
