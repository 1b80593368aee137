// Package policy decides policies with an embedded Open Policy Agent: Fabric's
// signature policies and implicit meta policies, compiled to Rego, and the Rego of
// a team's own. It sees verified facts, never signatures: a policy is asked which
// identities signed, in order, and learns only which principals each of them
// satisfies.
//
// # Exactness
//
// A verdict on a transaction becomes part of the ledger, so it must be Fabric's
// own. Fabric scans signers in order; each of them satisfies one leaf at most; a
// gate that fails gives its signers back; every rule of a gate is evaluated even
// after enough of them held (common/cauthdsl). The generated Rego does the same,
// a second implementation in Go (oracle.go) holds it to that in tests, and a
// corpus of known answers (golden.txt) is evaluated whenever an Engine is made:
// an Engine that answers differently refuses to start.
//
// # What Rego may do
//
// Rego is compiled in strict mode under a list of allowed built-in functions
// (capabilities.go). Nothing on that list reads a clock, a random source, the
// network or the host, so the same input gives the same decision everywhere.
// An evaluation error is an error, never a quiet "undefined".
package policy
