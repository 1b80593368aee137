# Payments in office hours, and not too many. The clock and the counts are asked outside
# of Rego, after these rules said which apply.
package strongroom.endorse

office := [{"zone": "Europe/Zurich", "days": ["mon", "tue", "wed", "thu", "fri"], "from": "07:00", "to": "19:00"}]

conditions contains {"open": office, "reason": "payments have hours"} if count(payments) > 0

conditions contains {
	"rate": {"name": "payments", "per": "caller", "calls": 60, "seconds": 60},
	"reason": "too many payments of one caller",
} if {
	count(payments) > 0
}
