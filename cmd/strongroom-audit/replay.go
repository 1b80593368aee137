package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"strongroom/channel"
	"strongroom/channel/configtx"
	"strongroom/ledger"
	"strongroom/ledger/seal"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// replay judges every transaction again, from the genesis block on: endorsement
// policies, chaincode definitions, versions and phantoms, on a ledger of its own in a
// temporary folder that is sealed under a key that nobody keeps.
type replay struct {
	dir       string
	keyring   *seal.Keyring
	ledger    *ledger.Ledger
	validator *channel.Validator
}

func newReplay(ctx context.Context, channelID string, engine *policy.Engine) (_ *replay, err error) {
	r := &replay{validator: channel.NewValidator(engine, 0)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("replay: %w", err), r.close())
		}
	}()
	if r.dir, err = os.MkdirTemp("", "strongroom-audit-"); err != nil {
		return nil, err
	}
	wrapper, err := newThrowaway()
	if err != nil {
		return nil, err
	}
	if r.keyring, err = seal.OpenKeyring(ctx, filepath.Join(r.dir, "keys"), wrapper); err != nil {
		return nil, err
	}
	r.ledger, err = ledger.Open(ctx, ledger.Config{Dir: filepath.Join(r.dir, "ledger"), ChannelID: channelID, Keyring: r.keyring})
	return r, err
}

func (r *replay) close() error {
	r.validator.Close()
	var errs []error
	if r.ledger != nil {
		errs = append(errs, r.ledger.Close())
	}
	if r.keyring != nil {
		errs = append(errs, r.keyring.Close())
	}
	if r.dir != "" {
		errs = append(errs, os.RemoveAll(r.dir))
	}
	return errors.Join(errs...)
}

// state is the ledger at its height.
type state struct {
	*ledger.Snapshot
	ledger *ledger.Ledger
}

// HasTx asks the ledger, which stands still while a block is judged.
func (s state) HasTx(txID string) (bool, error) { return s.ledger.HasTx(txID) }

// verdict is what the replay says of one transaction.
type verdict struct {
	code   peerpb.TxValidationCode
	reason string
}

// judged is what the replay says of a block.
type judged struct {
	verdicts []verdict
	policies map[string]policy.Digest // the endorsement policies of the namespaces that it writes to
	commit   []byte                   // the commit hash slot of the metadata as a peer must have it
}

// block judges the next block and commits it.
func (r *replay) block(ctx context.Context, config *configtx.Config, raw *commonpb.Block) (*judged, error) {
	facts, err := r.validator.Facts(ctx, config, proto.CloneOf(raw))
	if err != nil {
		return nil, err
	}
	out, err := r.judge(ctx, facts)
	if err != nil {
		return nil, err
	}
	verdicts := out.verdicts
	flags := make([]peerpb.TxValidationCode, len(verdicts))
	for i := range verdicts {
		flags[i] = verdicts[i].code
	}
	if err := r.ledger.Commit(ctx, facts.Block, flags); err != nil {
		return nil, err
	}
	for i, code := range flags {
		if code != verdicts[i].code {
			verdicts[i] = verdict{code, "found by the ledger's state"}
		}
	}
	committed, err := r.ledger.Block(raw.GetHeader().GetNumber())
	if err != nil {
		return nil, err
	}
	out.commit = slot(committed, commonpb.BlockMetadataIndex_COMMIT_HASH)
	return out, nil
}

func (r *replay) judge(ctx context.Context, facts *channel.Facts) (*judged, error) {
	out := &judged{verdicts: make([]verdict, len(facts.Block.Txs))}
	if facts.Block.Number() == 0 {
		return out, nil // the genesis block is taken as it is: VALID
	}
	snapshot, err := r.ledger.Snapshot()
	if err != nil {
		return nil, err
	}
	defer snapshot.Release()
	j, err := r.validator.Judge(ctx, facts, state{snapshot, r.ledger})
	if err != nil {
		return nil, err
	}
	for i, v := range j.Verdicts {
		out.verdicts[i] = verdict{v.Code, v.Reason}
	}
	out.policies = j.Policies
	return out, nil
}

func slot(b *commonpb.Block, i commonpb.BlockMetadataIndex) []byte {
	if slots := b.GetMetadata().GetMetadata(); int(i) < len(slots) {
		return slots[i]
	}
	return nil
}

// replayBlock holds a block's verdicts against those of the replay. After a block that
// cannot be replayed there is no state for the next one.
func (a *auditor) replayBlock(ctx context.Context, block *wire.Block, raw *commonpb.Block, flags []byte) error {
	if a.replay == nil {
		return nil
	}
	again, err := a.replay.block(ctx, a.config, raw)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		a.find(block.Number(), "its verdicts cannot be computed again, nor those of later blocks: %v", err)
		a.report.Replay.Reason = fmt.Sprintf("it stopped at block %d", block.Number())
		return a.endReplay()
	}
	same := true
	for i, v := range again.verdicts {
		if code := peerpb.TxValidationCode(flags[i]); code != v.code {
			a.find(block.Number(), "transaction %d (%s): the peer's verdict is %s, the channel's rules give %s: %s",
				i, block.Txs[i].TxID(), code, v.code, v.reason)
			same = false
		}
	}
	if same && !bytes.Equal(again.commit, slot(raw, commonpb.BlockMetadataIndex_COMMIT_HASH)) {
		a.find(block.Number(), "its commit hash is not the one that its writes give")
	}
	if a.found.statement != nil && same {
		a.comparePolicies(block.Number(), again.policies)
	}
	a.report.Replay.Blocks++
	return nil
}

// comparePolicies holds the policies that a statement names against those that judged.
func (a *auditor) comparePolicies(block uint64, judged map[string]policy.Digest) {
	stated := a.found.statement.Statement.Predicate.Policies
	for _, p := range stated {
		if got, ok := judged[p.Namespace]; !ok || got.String() != p.Digest {
			a.find(block, "the statement names endorsement policy %s for %s, the channel's rules have %s", p.Digest, p.Namespace, got)
		}
	}
	if len(stated) < len(judged) {
		a.find(block, "the statement names %d endorsement policies, %d judged its writes", len(stated), len(judged))
	}
}

func (a *auditor) endReplay() error {
	if a.replay == nil {
		return nil
	}
	r := a.replay
	a.replay = nil
	return r.close()
}

// throwaway wraps the keys of the temporary ledger in memory.
type throwaway struct{ aead cipher.AEAD }

func newThrowaway() (*throwaway, error) {
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return &throwaway{aead}, err
}

func (*throwaway) WrappingKeyID() string { return "strongroom-audit" }

func (*throwaway) Random(_ context.Context, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := rand.Read(b)
	return b, err
}

func (t *throwaway) WrapKey(_ context.Context, key []byte) ([]byte, error) {
	return t.aead.Seal(nil, nil, key, nil), nil
}

func (t *throwaway) UnwrapKey(_ context.Context, wrapped []byte) ([]byte, error) {
	return t.aead.Open(nil, nil, wrapped, nil)
}
