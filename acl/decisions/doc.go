// Package decisions makes records of decisions: events in the form of Open Policy
// Agent's decision log (EventV1), masked by the team's package system.log.
//
// Whoever decides hands an Event to a Sink, which must be quick; the Log, a Sink, queues
// it in the node's audit log, whose own goroutine renders it later. Events that differ in
// nothing but their id and time are rendered once.
//
// A masked field cannot be read any more, so each record has the SHA-256 of a salt and
// the full input: whoever has the full input, and is given the salt, shows that it was
// what the decision was about.
//
// The package performs no I/O.
package decisions
