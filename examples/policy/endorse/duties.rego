# Segregation of duties.
#
# Each function of the payments chaincode belongs to one duty, which the organisation's
# Fabric CA writes into certificates as the attribute "duty". Nobody has two.
package strongroom.endorse

duties := {
	"Create": "enter",
	"Release": "release",
	"SetLimit": "supervise",
}

deny contains sprintf("function %s belongs to no duty", [input.function]) if {
	input.chaincode.name == "payments"
	not duties[input.function]
}

deny contains sprintf("function %s needs the duty %s", [input.function, duty]) if {
	input.chaincode.name == "payments"
	duty := duties[input.function]
	object.get(input.caller.attributes, "duty", "") != duty
}

deny contains "whoever releases a payment may not have entered it" if {
	input.function == "Release"
	some payment in payments
	payment.amount > limit
	payment.created_by == input.caller.subject
}
