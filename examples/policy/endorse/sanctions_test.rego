package strongroom.endorse_test

test_sanctioned_parties_get_nothing if {
	not allowed(result(object.union(payment(5, "CN=ann", ""), {"to": "Initech "}), "CN=ann"))
	not allowed(result(object.union(payment(5, "CN=ann", ""), {"from": "umbrella"}), "CN=ann"))
}
