package chaincode_test

import (
	"strongroom/chaincode"
	"strongroom/ledger"
)

// The ledger's simulator is what transactions run on.
var _ chaincode.State = (*ledger.Simulator)(nil)
