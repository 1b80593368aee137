package strongroom.endorse_test

import data.strongroom.endorse

account(key) := object.union(result({}, "CN=ann"), {
	"chaincode": {"name": "accounts"}, "function": "Credit",
	"writes": [{"namespace": "accounts", "key": key, "is_delete": false, "size": 2, "sha256": "", "json": true, "value": {}}],
})

test_frozen_accounts_do_not_change if {
	not allowed(account("account~4711"))
	allowed(account("account~4713"))
}

test_frozen_accounts_are_not_deleted if {
	r := object.union(account("x"), {"writes": [{"namespace": "accounts", "key": "account~4712", "is_delete": true, "size": 0, "sha256": "", "json": false}]})
	not allowed(r)
}

test_policies_of_frozen_accounts_do_not_change if {
	r := object.union(account("x"), {"metadata_writes": [{"namespace": "accounts", "key": "account~4711", "names": ["VALIDATION_PARAMETER"]}]})
	endorse.deny == {"the endorsement policy of account~4711 is frozen"} with input as r
}
