package strongroom.endorse_test

import data.strongroom.endorse

result(payment, caller) := {
	"channel": "main", "tx_id": "t", "chaincode": {"name": "payments", "version": "1"}, "function": "Release", "args": ["7"],
	"transient": [], "binary_args": [], "event": null, "response": {"status": 200, "message": "", "size": 0, "sha256": "", "json": false},
	"caller": {"mspid": "BankMSP", "name": caller, "subject": caller, "issuer": "CN=ca", "role": "client", "ous": [], "attributes": {"duty": "release"}},
	"reads": [], "range_reads": [], "metadata_writes": [], "private_reads": [], "private_writes": [], "private_metadata_writes": [],
	"writes": [{"namespace": "payments", "key": "payment~7", "is_delete": false, "size": 1, "sha256": "", "json": true, "value": payment}],
}

payment(amount, maker, checker) := {
	"amount": amount, "from": "acme", "to": "globex",
	"created_by": maker, "approved_by": checker, "status": "released",
}

allowed(input_) if {
	endorse.allow with input as input_
	count(endorse.deny) == 0 with input as input_
}

test_small_payments_need_one_person if allowed(result(payment(10000, "CN=ann", ""), "CN=ann"))

test_large_payments_need_two if {
	allowed(result(payment(10001, "CN=ann", "CN=bob"), "CN=bob"))
	not allowed(result(payment(10001, "CN=ann", ""), "CN=ann"))
	not allowed(result(payment(10001, "CN=ann", "CN=ann"), "CN=ann"))
}

test_nobody_approves_in_anothers_name if not allowed(result(payment(10001, "CN=ann", "CN=bob"), "CN=ann"))

test_amounts_are_numbers if {
	not allowed(result(payment("5", "CN=ann", ""), "CN=ann"))
	not allowed(result({"status": "released"}, "CN=ann"))
}

test_client_is_told_of_the_second_person if {
	endorse.public_reason == {"payments above the limit need a second person"} with input as result(payment(10001, "CN=ann", ""), "CN=ann")
}

test_what_is_not_json_is_not_signed if {
	r := result(payment(1, "CN=ann", ""), "CN=ann")
	plain := object.union(r, {"writes": [{"namespace": "payments", "key": "payment~7", "is_delete": false, "size": 1, "sha256": "", "json": false}]})
	not allowed(plain)
}

test_chaincodes_that_are_not_listed_are_not_signed if {
	r := object.union(result(payment(1, "CN=ann", ""), "CN=ann"), {"chaincode": {"name": "other", "version": "1"}})
	not endorse.allow with input as r
}
