# METADATA
# title: Content decides who must endorse, on every peer
# description: >-
#   Validation rules of a chaincode definition: they are on the ledger, and every peer of
#   the channel asks them about each transaction once the endorsement policy held. This
#   example lets one organisation endorse small payments and demands two above a limit,
#   none of them endorsed by the payer's organisation alone.
package strongroom.validate

default allow := false

limit := 10000

# What these rules cannot read they do not let pass.
allow if {
	count(written) > 0
	every w in written {
		readable(w)
	}
}

# Calls that write nothing change nothing.
allow if count(written) == 0

written contains w if {
	some w in input.writes
	w.namespace == input.namespace
}

readable(w) if w.is_delete

readable(w) if {
	w.json
	is_number(w.value.amount)
	w.value.amount >= 0
}

organisations := {e.mspid | some e in input.endorsers}

deny contains "a payment above the limit needs endorsements of two organisations" if {
	some w in written
	w.value.amount > limit
	count(organisations) < 2
}

deny contains "payments are deleted by administrators" if {
	some w in written
	w.is_delete
	input.caller.role != "admin"
}
