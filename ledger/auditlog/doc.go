// Package auditlog is a node's audit log: one append-only sequence of records that
// holds every decision and every administrative act.
//
// Each record names the SHA-256 of the one before, and is a leaf of a Merkle tree
// (ledger/translog) whose checkpoints the node's key signs in the HSM. So a record that
// was changed, removed or put elsewhere is found by whoever reads a slice of the log
// (VerifySlice) with no more than the signer's certificate.
//
// On disk the records are sealed under the node's keyring, several in one frame, since a
// decision's input may be confidential; what is told outside is each record as policy
// masked it. Beside a record lies its private part, which is no part of the tree: the
// salt of the hash of the unmasked input.
//
// Put queues a record and returns; one goroutine renders, seals and writes what was
// queued, as much as there is with one sync. When it cannot write, the log either makes
// the node stop deciding (the default) or counts what it drops and says so in a record.
//
// record.go and slice.go perform no I/O beyond the given readers and writers.
package auditlog
