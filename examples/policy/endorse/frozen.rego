# Frozen accounts do not change.
package strongroom.endorse

frozen := {"account~4711", "account~4712"}

# Whoever thaws accounts does it by changing this list, not the account.
deny contains sprintf("%s is frozen", [w.key]) if {
	some w in input.writes
	w.namespace == "accounts"
	w.key in frozen
}

deny contains sprintf("the endorsement policy of %s is frozen", [w.key]) if {
	some w in input.metadata_writes
	w.namespace == "accounts"
	w.key in frozen
}
