// Package replay decides recorded decisions again: with the rules that decided them, to
// show that the record is right, or with others, to show what they would change.
//
// It evaluates nothing but Rego over the recorded input, as `opa eval` does. Conditions of
// time and rate, and Fabric's own policies, are taken as they were recorded. The package
// performs no I/O.
package replay
