// Package endorsement is a security team's veto over what this peer signs: Rego in
// package strongroom.endorse that sees a proposal and everything that its simulation
// read and wrote, and says whether the peer may endorse it.
//
// It fails closed: no rule that allows, an error of the evaluation, a deadline that
// passed, an input that is too large or that cannot be built all mean no. The reasons
// of a refusal go to the log under the decision's id; the client reads that id and
// what the rules put into public_reason.
//
// The package performs no I/O besides loading a file of Rego.
package endorsement
