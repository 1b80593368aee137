package strongroom.endorse_test

calls(function, attributes) := object.union(result({"amount": 1, "status": "entered"}, "CN=ann"), {
	"function": function,
	"caller": {"mspid": "BankMSP", "name": "ann", "subject": "CN=ann", "issuer": "CN=ca", "role": "client", "ous": [], "attributes": attributes},
})

# object.union merges objects: attributes are what both sides have.
without_duty(function) := bare if {
	r := calls(function, {})
	bare := object.union(object.remove(r, ["caller"]), {"caller": {"mspid": "BankMSP", "name": "ann", "subject": "CN=ann", "issuer": "CN=ca", "role": "client", "ous": [], "attributes": {}}})
}

test_each_function_has_its_duty if {
	allowed(calls("Create", {"duty": "enter"}))
	not allowed(calls("Create", {"duty": "release"}))
	not allowed(calls("SetLimit", {"duty": "enter"}))
	allowed(calls("SetLimit", {"duty": "supervise"}))
}

test_no_duty_no_function if not allowed(without_duty("Create"))

test_unknown_functions_are_refused if not allowed(calls("Drain", {"duty": "supervise"}))
