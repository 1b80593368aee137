// Package validation is Rego at commit: rules that a chaincode definition carries and
// that every Strongroom peer of the channel asks about each transaction, after the
// ordinary endorsement policy held and before its verdict is recorded.
//
// The verdict is consensus, so the rules are part of the definition itself: their text,
// their digest, and the name of what evaluates them (policy.LedgerRules) stand in the
// definition's validation parameter, behind the validation plugin Plugin. There is no
// clock, no deadline and no configuration in it. docs/design/rego-at-commit.md says why.
package validation
