# Some records must be co-signed from now on: this peer signs a new escrow only if the
# chaincode gave its key an endorsement policy that does not hold without both the
# depositary and the auditor. What is written to the key later then needs theirs, on every
# peer of the channel.
package strongroom.endorse

co_signers := {"DepositaryMSP", "AuditorMSP"}

deny contains sprintf("%s must be given an endorsement policy that needs %s", [w.key, concat(" and ", sort(co_signers))]) if {
	some w in input.writes
	w.namespace == "payments"
	startswith(w.key, "escrow~")
	not w.is_delete
	not co_signed(w.key)
}

co_signed(key) if {
	some m in input.metadata_writes
	m.namespace == "payments"
	m.key == key
	every c in co_signers { c in m.endorsement.needed }
}

# Nor is the policy of an escrow taken away or weakened.
deny contains sprintf("the endorsement policy of %s would no longer need all co-signers", [m.key]) if {
	some m in input.metadata_writes
	m.namespace == "payments"
	startswith(m.key, "escrow~")
	some c in co_signers
	not c in m.endorsement.needed
}
