// Package translog is a transparency log: an append-only Merkle tree (RFC 6962,
// SHA-256) whose leaves are a channel's provenance statements, with proofs that a
// statement is in it and that a later tree continues an earlier one.
//
// The content of leaf i is the DSSE payload of the i-th statement: the bytes that the
// HSM signed, without the signature, which differs each time it is made, and without
// the bundle around it, to which third parties may add. Hashes lie on disk as the
// tiles of C2SP tlog-tiles: tile/<level>/<index>, 256 hashes each. Only full tiles
// are kept; the rest, and any tile that is missing, is computed from the statements.
// Checkpoints are C2SP tlog-checkpoints in signed notes, with an ECDSA signature
// (type 0x02: key id = SHA-256 of the SubjectPublicKeyInfo, signature in ASN.1 DER
// over SHA-256 of the text).
//
// tree.go and note.go perform no I/O.
package translog
