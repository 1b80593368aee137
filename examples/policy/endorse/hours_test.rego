package strongroom.endorse_test

import data.strongroom.endorse

test_payments_have_hours_and_a_rate if {
	conditions := endorse.conditions with endorse.payments as {{"amount": 1}}
	count(conditions) == 2
	some hours in conditions
	hours.open[0].zone == "Europe/Zurich"
	some rate in conditions
	rate.rate.per == "caller"
}

test_other_results_have_none if {
	count(endorse.conditions) == 0 with endorse.payments as set()
}
