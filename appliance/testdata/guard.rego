package strongroom.endorse

default allow := false

allow if {
	input.chaincode.name == "kv"
	every w in input.writes {
		w.value.amount >= 0
	}
}

deny contains sprintf("kv writes %v under %s", [w.value.amount, w.key]) if {
	some w in input.writes
	w.value.amount > 100
}

deny contains "frozen" if {
	some w in input.writes
	w.key == "frozen"
}

public_reason contains "above the limit" if {
	some w in input.writes
	w.value.amount > 100
}
