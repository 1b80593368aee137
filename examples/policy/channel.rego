# METADATA
# title: Who may do what on a channel
# description: >-
#   Asked for every request on a channel. Channels that are not listed here are closed,
#   so that a new one is opened by a decision and not by accident.
package strongroom.acl.channel

default allow := false

members := {
	"main": {"Org1MSP", "Org2MSP", "OrdererMSP"},
	"settlement": {"Org1MSP", "OrdererMSP"},
}

allow if input.caller.mspid in members[input.channel]

# Auditors read. They neither propose nor change a chaincode's definition.
reading := {
	"event/Block",
	"event/FilteredBlock",
	"qscc/GetBlockByNumber",
	"qscc/GetChainInfo",
	"qscc/GetTransactionByID",
}

deny contains sprintf("auditors only read: %s is not reading", [input.resource]) if {
	"auditors" in input.caller.ous
	not input.resource in reading
}
