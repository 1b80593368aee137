package main

import (
	"encoding/hex"
	"slices"
	"time"

	"strongroom/ledger/evidence"
	"strongroom/ledger/provenance"
	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/peerpb"
)

// watch is told of each block of a pack once it was checked. files gives the block's
// files of the pack; nothing of it may be kept.
type watch func(b *seenBlock, files *[4][]byte) error

// seenBlock is a block with what its verification found.
type seenBlock struct {
	*wire.Block
	evidence blockEvidence
	flags    []byte
	parties  []parties // one for each transaction
}

// blockEvidence is what stands for a block: nil and false where it does not hold.
type blockEvidence struct {
	statement *provenance.Checked
	index     uint64 // the statement's number in the transparency log
	logged    bool
}

// parties are who signed a valid transaction, each signature checked. Those of
// transactions that the peer called invalid are not checked.
type parties struct {
	creator   *msp.Identity
	endorsers []*msp.Identity
	problem   error
}

// Entry is what a pack shows of one transaction.
type Entry struct {
	Block     uint64   `json:"block"`
	Index     int      `json:"index"` // in the block
	TxID      string   `json:"txId"`
	Code      string   `json:"code"` // the peer's verdict
	Kind      string   `json:"kind"`
	Chaincode string   `json:"chaincode,omitempty"`
	Claimed   string   `json:"claimedTime,omitempty"` // what the client wrote into the transaction
	Creator   string   `json:"creator,omitempty"`     // who submitted it; "" unless valid
	Endorsers []string `json:"endorsers,omitempty"`   // whose signatures are good
	Policies  []Rule   `json:"policies,omitempty"`    // endorsement policies of the namespaces that it wrote to
	Problem   string   `json:"problem,omitempty"`     // what does not verify

	BlockHash string   `json:"blockHash"`
	Stated    string   `json:"statedTime,omitempty"` // when the peer's HSM signed the block's statement
	Statement string   `json:"statement,omitempty"`  // SHA-256 of its payload; "" if it does not hold
	LogIndex  *uint64  `json:"logIndex,omitempty"`   // its number in the transparency log
	Files     []string `json:"files"`                // of the pack, that prove it
}

// Rule is an endorsement policy, by its digest, of a namespace.
type Rule struct {
	Namespace string `json:"namespace"`
	Digest    string `json:"digest"`
}

// valid tells whether the peer called a transaction valid.
func (b *seenBlock) valid(i int) bool { return b.flags[i] == byte(peerpb.TxValidationCode_VALID) }

// entry describes a transaction.
func (b *seenBlock) entry(i int) Entry {
	tx := b.Txs[i]
	e := Entry{
		Block: b.Number(), Index: i, TxID: tx.IndexID(), Code: peerpb.TxValidationCode(b.flags[i]).String(),
		Kind: "unknown", BlockHash: hex.EncodeToString(b.Hash),
	}
	for kind := evidence.Header; kind <= evidence.Proof; kind++ {
		e.Files = append(e.Files, kind.Name(b.Number()))
	}
	if at := tx.ChannelHeader.GetTimestamp(); at != nil {
		e.Claimed = at.AsTime().Format(time.RFC3339Nano)
	}
	switch {
	case tx.Config != nil:
		e.Kind = "configuration"
	case tx.Endorsed != nil:
		e.Kind, e.Chaincode = "transaction", tx.Endorsed.ChaincodeID.GetName()
	}
	p := b.parties[i]
	if p.creator != nil {
		e.Creator = describe(p.creator)
	}
	for _, id := range p.endorsers {
		e.Endorsers = append(e.Endorsers, describe(id))
	}
	if p.problem != nil {
		e.Problem = p.problem.Error()
	}
	if s := b.evidence.statement; s != nil {
		e.Statement = hex.EncodeToString(s.Digest[:])
		e.Stated = s.Statement.Predicate.Time.Value.Format(time.RFC3339Nano)
		for _, policy := range s.Statement.Predicate.Policies {
			if writesTo(tx, policy.Namespace) {
				e.Policies = append(e.Policies, Rule{policy.Namespace, policy.Digest})
			}
		}
	}
	if b.evidence.logged {
		e.LogIndex = &b.evidence.index
	}
	return e
}

// namespace is what a transaction read and wrote in one namespace, nil if nothing.
func namespace(tx *wire.Tx, name string) *wire.NamespaceSet {
	if tx.Endorsed == nil || tx.Endorsed.ReadWriteSet == nil {
		return nil
	}
	sets := tx.Endorsed.ReadWriteSet.Namespaces
	if i := slices.IndexFunc(sets, func(n wire.NamespaceSet) bool { return n.Namespace == name }); i >= 0 {
		return &sets[i]
	}
	return nil
}

// writesTo tells whether a transaction writes in a namespace: keys, their metadata or
// private data.
func writesTo(tx *wire.Tx, name string) bool {
	n := namespace(tx, name)
	if n == nil {
		return false
	}
	return len(n.KV.GetWrites()) > 0 || len(n.KV.GetMetadataWrites()) > 0 ||
		slices.ContainsFunc(n.Collections, func(c wire.CollectionSet) bool {
			return len(c.Hashed.GetHashedWrites()) > 0 || len(c.Hashed.GetMetadataWrites()) > 0
		})
}

func describe(id *msp.Identity) string {
	return id.Certificate.Subject.String() + " of " + string(id.MSPID)
}
