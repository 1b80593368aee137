// Package msp knows who is who on a channel: it turns a serialized identity into
// a certificate whose chain and revocation were checked in a token, and says
// which principals of a policy that identity satisfies. Its verdicts are those of
// a Fabric membership service provider for the same configuration and bytes. It
// performs no I/O of its own, except LoadDirectory, which reads a Fabric MSP folder.
//
// A certificate's expiry is not part of its validity here, as in Fabric: a
// transaction that was valid when it was ordered stays valid when a peer replays
// it years later. The edges (proposals, broadcast, deliver) ask Identity.ExpiresAt.
package msp
