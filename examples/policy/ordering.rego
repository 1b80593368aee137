# METADATA
# title: Who may use the ordering service
# description: >-
#   Asked for orderer/Broadcast and orderer/Deliver. Blocks go to peers, orderers and
#   administrators alone: a client reads through its own organisation's peer.
package strongroom.acl.ordering

default allow := false

allow if input.resource == "orderer/Broadcast"

allow if {
	input.resource == "orderer/Deliver"
	input.caller.role in {"peer", "orderer", "admin"}
}
