// Package sealfs keeps the files of a goleveldb database sealed: it is a
// storage.Storage of which no file holds a byte of a key or a value in clear. File
// names, sizes and times stay visible.
//
// A file starts with a header that holds its own random AES-256 key, sealed by the
// keyring and bound to the channel, the store, the store's random identity and the
// file's name: a file that was moved, renamed, or put back from a store that was
// thrown away does not open. What follows is sealed with AES-256-GCM under that key, in one of
// two layouts.
//
// Tables are written once and read at random: chunks of 4096 bytes, the last
// one shorter and marked as the last, so that a table which was cut does not open.
// Journals and manifests grow and are read from the start: each write becomes one
// record with a running number, which is authenticated together with the length and with how far
// the file was known to be on the disk. So the end of a write that a power failure
// tore can be told from damage to what had been synced: see openRecords.
//
// # Why no nonce repeats
//
// A key belongs to one writer: Create makes a new key even when a file of that name
// was there, the key is in the memory of that writer alone until the file is
// closed, and nothing ever opens a file to append to it (goleveldb starts a new
// journal and a new manifest each time a database is opened; Storage has no call to
// append). Within the writer the nonce is a counter that goes up before its bytes
// reach the file and that is not set back when a write fails: after an error the
// writer refuses all else. A chunk that is sealed is never sealed again, for only
// Sync and Close end a table, and a table that was ended takes no more bytes. The
// two layouts never share a key. A record or chunk counter of 64 bits does not
// come round; a file of 2^32 chunks would have 16 TiB, goleveldb's have 2 MiB, or
// one batch more than 8 MiB.
//
// GODEBUG=fips140=only refuses nonces that the caller chooses, as it does for
// package seal; see there.
package sealfs
