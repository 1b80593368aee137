# Four eyes above a limit.
package strongroom.endorse

limit := 10000

deny contains "a payment's amount is not a number" if {
	some payment in payments
	not is_number(payment.amount)
}

large_release(payment) if {
	payment.status == "released"
	payment.amount > limit
}

deny contains sprintf("a payment above %d needs a second person's approval", [limit]) if {
	some payment in payments
	large_release(payment)
	payment.approved_by in {"", payment.created_by}
}

deny contains "the caller is not the approver that the payment names" if {
	some payment in payments
	large_release(payment)
	payment.approved_by != input.caller.subject
}

# The client may know this much.
public_reason contains "payments above the limit need a second person" if {
	some payment in payments
	large_release(payment)
	payment.approved_by in {"", payment.created_by}
}
