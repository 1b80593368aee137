package main

import (
	"bytes"
	"context"
	"encoding/hex"

	"google.golang.org/protobuf/proto"

	"strongroom/channel/configtx"
	"strongroom/ledger/evidence"
	"strongroom/ledger/provenance"
	"strongroom/ledger/translog"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// block checks one block and its evidence, from a.parts.
func (a *auditor) block(ctx context.Context, n uint64) error {
	raw := &commonpb.Block{}
	data := a.parts[evidence.Block]
	if data == nil {
		a.find(n, "%s is missing", evidence.Block.Name(n))
		a.previous = nil
		return nil
	}
	if err := proto.Unmarshal(data, raw); err != nil {
		a.find(n, "%s cannot be read: %v", evidence.Block.Name(n), err)
		a.previous = nil
		return nil
	}
	header := raw.GetHeader()
	if header.GetNumber() != n {
		a.find(n, "the file holds block %d", header.GetNumber())
	}
	if a.previous != nil && !bytes.Equal(header.GetPreviousHash(), a.previous) {
		a.find(n, "names %x as the block before it, which is %x", header.GetPreviousHash(), a.previous)
	}
	a.previous = wire.BlockHash(header)
	a.report.LastHash = hex.EncodeToString(a.previous)
	if !bytes.Equal(a.parts[evidence.Header], wire.HeaderBytes(header)) {
		a.find(n, "%s is not this block's header", evidence.Header.Name(n))
	}
	if n > 0 { // the genesis block carries no signature; config.block vouches for it
		if err := configtx.VerifyBlock(ctx, a.config, raw); err != nil {
			a.find(n, "ordering service: %v", err)
		} else {
			a.report.Signatures++
		}
	} else if got := wire.DataHash(raw.GetData()); !bytes.Equal(got, header.GetDataHash()) {
		a.find(n, "its data has hash %x, its header says %x", got, header.GetDataHash())
	} else if a.report.LastHash != a.report.ConfigHash {
		a.find(n, "is not the genesis block of config.block")
	}
	a.statement(ctx, n, raw)
	return a.transactions(ctx, raw)
}

// statement checks what the HSM signed about a block, and that it is in the log.
func (a *auditor) statement(ctx context.Context, n uint64, raw *commonpb.Block) {
	bundle := a.parts[evidence.Statement]
	if bundle == nil {
		a.find(n, "%s is missing", evidence.Statement.Name(n))
		return
	}
	checked, err := a.checkStatement(ctx, bundle, raw.GetHeader())
	if err == nil {
		err = checked.Statement.CheckBlock(raw)
	}
	if err == nil {
		err = a.chain.Add(checked)
	}
	if err != nil {
		a.find(n, "statement: %v", err)
		return
	}
	a.report.Signatures++
	for _, p := range checked.Statement.Predicate.Policies {
		a.report.policy(p.Namespace, p.Digest, n)
	}
	a.report.hsm(&checked.Statement.Predicate)
	a.found.statement = checked
	a.inclusion(n, bundle)
}

// inclusion checks a statement's proof against the pack's checkpoint.
func (a *auditor) inclusion(n uint64, bundle []byte) {
	if a.log == nil {
		return // one finding about the checkpoint says it all
	}
	b, err := provenance.ParseBundle(bundle)
	if err != nil {
		a.find(n, "statement: %v", err)
		return
	}
	index, proof, note, err := translog.ParseProof(a.parts[evidence.Proof])
	switch {
	case a.parts[evidence.Proof] == nil:
		a.find(n, "%s is missing", evidence.Proof.Name(n))
	case err != nil:
		a.find(n, "transparency log: %v", err)
	case !bytes.Equal(note, a.note):
		a.find(n, "transparency log: the proof is for another checkpoint than the pack's")
	case a.report.Log.Statements > 0 && index != a.report.Log.First+a.report.Log.Statements:
		a.find(n, "transparency log: the statement is number %d there, the one before is number %d",
			index, a.report.Log.First+a.report.Log.Statements-1)
	default:
		if err := translog.VerifyInclusion(proof, index, a.log.Size, translog.LeafHash(b.Envelope.Payload), a.log.Root); err != nil {
			a.find(n, "transparency log: %v", err)
			return
		}
		if a.report.Log.Statements == 0 {
			a.report.Log.First = index
		}
		a.report.Log.Statements++
		a.found.index, a.found.logged = index, true
	}
}
