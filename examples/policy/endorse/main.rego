# METADATA
# title: What this peer may endorse
# description: >-
#   Asked after the chaincode ran and before the peer signs its result. The other files
#   of this folder deny; nothing is allowed that is not listed here.
package strongroom.endorse

default allow := false

# Chaincodes that this peer endorses, the peer's own system chaincodes included: without
# _lifecycle no chaincode can be approved, without qscc and cscc nothing can be asked.
endorsed := {"payments", "accounts", "_lifecycle", "qscc", "cscc"}

allow if input.chaincode.name in endorsed

# What the payments chaincode wrote must be readable by these rules.
deny contains sprintf("write of %s in payments is not JSON", [w.key]) if {
	some w in input.writes
	w.namespace == "payments"
	not w.is_delete
	not w.json
}

# The payments of a transaction, as they will stand in the ledger.
payments contains payment if {
	some w in input.writes
	w.namespace == "payments"
	startswith(w.key, "payment~")
	payment := object.union({"amount": "missing", "from": "", "to": "", "created_by": "", "approved_by": "", "status": ""}, w.value)
}
