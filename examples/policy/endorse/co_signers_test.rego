package strongroom.endorse_test

import data.strongroom.endorse

escrow(needed) := {
	"writes": [{"namespace": "payments", "key": "escrow~1", "is_delete": false, "size": 2, "sha256": "", "json": true, "value": {}}],
	"metadata_writes": [{"namespace": "payments", "key": "escrow~1", "names": ["VALIDATION_PARAMETER"], "endorsement": {"rule": "", "named": needed, "needed": needed}}],
}

test_an_escrow_needs_its_co_signers if {
	count(endorse.deny) == 0 with input as escrow(["AuditorMSP", "DepositaryMSP", "Org1MSP"])
	count(endorse.deny) == 2 with input as escrow(["AuditorMSP"])
}

test_an_escrow_without_a_policy_is_not_signed if {
	count(endorse.deny) == 1 with input as object.union(escrow([]), {"metadata_writes": []})
}

test_the_policy_of_an_escrow_stays if {
	count(endorse.deny) == 1 with input as object.union(escrow(["DepositaryMSP"]), {"writes": []})
}
