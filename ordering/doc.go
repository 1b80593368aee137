// Package ordering is the embedded single-node ordering service: it implements
// orderer.AtomicBroadcast for any number of channels, each isolated from the others
// in its own folder, with its own configuration and its own goroutines.
//
// # The way of an envelope
//
// A Broadcast stream checks its envelopes in parallel (size, expiry, signature,
// Writers policy, all in the token and the policy engine) and hands them on in the
// order in which they came. From there one channel works in three stages, each a
// goroutine:
//
//	accept   writes what has gathered to the pending log with one fsync, then answers SUCCESS
//	cut      checks again what was checked under an older configuration, and cuts batches
//	write    makes, signs (in the token) and appends one block after the other, fsync, publish
//
// # Invariants
//
// SUCCESS means durable: the envelope is in the pending log and will be in a block,
// or will be refused by a configuration that was ordered before it. Each block
// carries in its signed consenter metadata how far the pending log is used up, so a
// restart after a crash at any point resumes behind the last durable block: no
// acknowledged envelope is lost, and none is ordered twice.
//
// The configuration changes only in the write stage, after its block is durable;
// the cut stage waits for that before it looks at the next envelope.
//
// A failure of ours (device, disk) never drops an envelope that was acknowledged:
// the stage tries again, Healthy says why it waits, and new envelopes are refused
// with SERVICE_UNAVAILABLE when the pending log cannot take them.
package ordering
