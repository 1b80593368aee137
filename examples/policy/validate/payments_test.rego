package strongroom.validate_test

import data.strongroom.validate

endorser(mspid) := {"mspid": mspid, "name": "", "subject": "", "issuer": "", "role": "peer", "ous": [], "attributes": {}}

payment(amount, organisations) := {
	"namespace": "payments",
	"caller": object.union(endorser("Org1MSP"), {"role": "client"}),
	"endorsers": [endorser(o) | some o in organisations],
	"writes": [{"namespace": "payments", "key": "p1", "is_delete": false, "json": true, "value": {"amount": amount}}],
}

test_one_organisation_may_endorse_a_small_payment if {
	validate.allow with input as payment(10000, ["Org1MSP"])
	count(validate.deny) == 0 with input as payment(10000, ["Org1MSP"])
}

test_a_large_payment_needs_two if {
	count(validate.deny) == 1 with input as payment(10001, ["Org1MSP", "Org1MSP"])
	count(validate.deny) == 0 with input as payment(10001, ["Org1MSP", "Org2MSP"])
}

test_an_amount_is_a_number if {
	not validate.allow with input as payment("10", ["Org1MSP", "Org2MSP"])
	not validate.allow with input as payment(-1, ["Org1MSP", "Org2MSP"])
}

test_unreadable_is_not_let_pass if {
	not validate.allow with input as object.union(payment(1, ["Org1MSP"]), {"writes": [{"namespace": "payments", "key": "p1", "is_delete": false, "json": false}]})
}

test_reading_is_let_pass if {
	validate.allow with input as object.union(payment(1, ["Org1MSP"]), {"writes": []})
}

test_administrators_delete if {
	gone := object.union(payment(1, ["Org1MSP"]), {"writes": [{"namespace": "payments", "key": "p1", "is_delete": true, "json": false}]})
	validate.allow with input as gone
	count(validate.deny) == 1 with input as gone
	count(validate.deny) == 0 with input as object.union(gone, {"caller": {"role": "admin"}})
}
