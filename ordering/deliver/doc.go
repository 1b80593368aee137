// Package deliver serves blocks over Fabric's deliver streams: the loop that an
// ordering node (orderer.AtomicBroadcast.Deliver) and a peer (protos.Deliver) have
// in common, over interfaces that each of them fills. It keeps no state between
// streams and performs no I/O of its own.
//
// Statuses are Fabric's: BAD_REQUEST for a request that is malformed, too old or
// not bound to its TLS connection, NOT_FOUND for a channel or a block that is not
// there, FORBIDDEN for a signer that may not read, SERVICE_UNAVAILABLE when we
// cannot answer.
package deliver
