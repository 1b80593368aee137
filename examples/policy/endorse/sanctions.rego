# Nothing to or from a sanctioned party.
#
# The names are examples; in a bundle they stand in data.json.
package strongroom.endorse

sanctioned := {"initech", "umbrella"}

deny contains sprintf("%s is on the sanctions list", [party]) if {
	some payment in payments
	some side in ["from", "to"]
	party := lower(trim_space(payment[side]))
	party in sanctioned
}
