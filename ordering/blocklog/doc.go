// Package blocklog is a durable, append-only log of numbered records: the blocks of
// a channel, and the envelopes that wait to be cut into blocks.
//
// On disk a log is a folder of segments, each named by the number of its first
// record. A record is
//
//	magic    4 bytes  "rcd1"
//	length   4 bytes  of the body
//	number   8 bytes
//	durable  8 bytes  how far this segment was known to be on disk when the record was written
//	checksum 4 bytes  CRC-32C of the fields above without the magic, and of the body
//	body
//
// with big-endian integers. A body is sealed if the log has a Sealer, its associated
// data being the log's name and the record's number, so that a record moved to
// another place or another log does not open.
//
// Torn tails. After a crash the last segment may end in records that were never
// synced, in any state. Open cuts them off. It refuses with a *CorruptError to cut
// what was synced: a bad record is corruption, not a torn tail, if it lies below the
// durable mark of any good record after it, or below the mark in the folder's file
// "durable", which each Sync writes (and leaves to the kernel to flush: it may be
// too low after a power failure, never too high).
package blocklog
