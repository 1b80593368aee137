// Package channel follows one channel: it takes the blocks that the ordering
// service delivers, gives every transaction the validation code that Fabric's
// peers give it, and commits the blocks to the ledger in order.
//
// # The pipeline and its invariants
//
// A block passes these stages. Only the first and the last are slow, and only for
// them is there anything to gain from running side by side.
//
//		intake   serial    number, previous hash, data hash, orderers' signatures
//		facts    parallel  parse; who created and who endorsed each transaction,
//		                   every signature checked in the token
//		verdict  serial by block, parallel inside one: duplicates, chaincode
//		                   definitions, endorsement policies, key-level policies
//		commit   serial    ledger.Commit: versions, phantoms, commit hash, disk
//		publish  serial    provenance is recorded, then waiters and caches are told
//
//	 1. Facts depend on a block's bytes and on one channel configuration, and on
//	    nothing else: not on the ledger, not on a clock, not on other blocks. So the
//	    facts of blocks N+1, N+2, … are found while block N is still being committed,
//	    and finding them again gives the same.
//	 2. Verdicts on block N are found after block N-1 was committed, on a snapshot of
//	    exactly that height. They depend on the facts, the snapshot and the
//	    configuration alone.
//	 3. A block with a CONFIG transaction is a barrier: the block after it enters
//	    intake once it is committed, so that no fact is ever found under a
//	    configuration other than the one in force at its block. The verdict stage
//	    checks this and finds the facts again if it does not hold.
//	 4. A transaction's code is a function of the chain up to it. A failure of ours
//	    (a token that does not answer, a disk that is full, a context that ended) is
//	    an error, never a code: it stops the block, is reported, and is tried again
//	    after a pause, with the facts that were found kept.
//	 5. Blocks are committed in order, each once. A block that intake or verdict
//	    refuses is dropped with all that came after it from the same source, and the
//	    source is asked again from the height of the ledger: nothing is lost.
//	 6. The number of blocks between intake and commit is bounded (Config.Ahead), and
//	    so is the number of signature checks that wait for the token (Config.Workers).
//	 7. Within a block, the order in which tasks run never shows: a task writes only
//	    to the places of its own transaction. Key-level policies are the one case
//	    where a verdict depends on verdicts before it in the block; those
//	    transactions are decided in order after all others.
//	 8. A waiter learns of a transaction when its block is committed and recorded,
//	    never earlier, and learns of it whether it began to wait before or after.
//
// The obvious design, validating a block after the one before it is committed,
// leaves the token idle while the disk works and the processors idle while the
// last signatures of a block trickle in. With a network HSM, whose single check
// takes a millisecond, that is most of the time.
package channel
