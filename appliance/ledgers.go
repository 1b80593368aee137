package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"strongroom/appliance/config"
	"strongroom/ledger"
	"strongroom/ledger/seal"
	"strongroom/policy"
)

// ledgerAtRest is a channel's ledger of a peer that is stopped, or of a copy of its
// data folder.
type ledgerAtRest struct {
	tokens  *Tokens
	keyring *seal.Keyring
	dir     string // the channel's folder
	config  ledger.Config
}

// openAtRest opens the token, and the keyring for writing or for reading alone.
func openAtRest(ctx context.Context, c *config.Peer, channel string, writing bool, logTo io.Writer) (_ *ledgerAtRest, err error) {
	if err := harden(); err != nil {
		return nil, err
	}
	r := &ledgerAtRest{dir: filepath.Join(c.Data, "channels", channel)}
	if _, err := os.Stat(r.dir); err != nil || filepath.Base(channel) != channel {
		return nil, fmt.Errorf("the data folder %s has no channel %q: correct the name", c.Data, channel)
	}
	if r.tokens, err = OpenTokens(ctx, c.Token, c.Verifiers, nil, newLogger(c.Log, c.Node.Name, logTo)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	folder := filepath.Join(c.Data, "keyring")
	if writing {
		r.keyring, err = seal.OpenKeyring(ctx, folder, r.tokens.Keeper)
	} else {
		r.keyring, err = seal.OpenKeyringReadOnly(folder, r.tokens.Keeper)
	}
	if err != nil {
		return nil, stopFirst(fmt.Errorf("keyring: %w", err))
	}
	r.config = ledger.Config{
		Dir: filepath.Join(r.dir, "ledger"), ChannelID: channel, Keyring: r.keyring, Logger: newLogger(c.Log, c.Node.Name, logTo),
	}
	return r, nil
}

// stopFirst tells what to do about an error that a running peer causes.
func stopFirst(err error) error {
	if errors.Is(err, seal.ErrInUse) {
		return fmt.Errorf("%w: stop the peer first", err)
	}
	return err
}

func (r *ledgerAtRest) close() error {
	var errs []error
	if r.keyring != nil {
		errs = append(errs, r.keyring.Close())
	}
	return errors.Join(append(errs, r.tokens.Close())...)
}

// folders are the parts of a channel that lie beside its ledger.
func (r *ledgerAtRest) folders() map[string]string {
	return map[string]string{"provenance": filepath.Join(r.dir, "provenance")}
}

// LedgerStats counts what a channel's ledger holds, with the peer stopped.
func LedgerStats(ctx context.Context, c *config.Peer, channel string, logTo io.Writer) (_ *ledger.Stats, err error) {
	r, err := openAtRest(ctx, c, channel, false, logTo)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	s, err := ledger.ReadStats(ctx, r.config, r.folders())
	return s, stopFirst(err)
}

// RebuildLedger makes what follows from a channel's blocks anew, with the peer stopped,
// and returns the height. A ledger behind what the token remembers is refused.
func RebuildLedger(ctx context.Context, c *config.Peer, channel string, progress func(what string, block, of uint64), logTo io.Writer) (_ uint64, err error) {
	r, err := openAtRest(ctx, c, channel, true, logTo)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	r.config.Progress = progress
	r.config.Checkpoints, r.config.CheckpointName = r.tokens.Keeper, checkpointName(c.Node.Key, channel)
	return ledger.Rebuild(ctx, r.config)
}

// LedgerVerification is what VerifyLedger found.
type LedgerVerification struct {
	*ledger.Verification
	// Signed counts blocks whose orderers' signatures the token checked, Statements the
	// statements of provenance that it did.
	Signed     uint64 `json:"signedBlocks"`
	Statements uint64 `json:"statements"`
}

// VerifyLedger reads a channel's ledger again as a whole, with the peer stopped: see
// ledger.Verify. The orderers' signatures are checked against the channel's configuration at
// each block, and the statements of provenance against the blocks, all in the token.
// Temp is where the scratch ledger is made; "" stands for the system's folder.
func VerifyLedger(ctx context.Context, c *config.Peer, channel, temp string, progress func(what string, done, of uint64), logTo io.Writer) (_ *LedgerVerification, err error) {
	r, err := openAtRest(ctx, c, channel, false, logTo)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	scratch, err := os.MkdirTemp(temp, "strongroom-verify-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	keyring, err := seal.OpenKeyring(ctx, filepath.Join(scratch, "keyring"), r.tokens.Keeper)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, keyring.Close()) }()
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		return nil, fmt.Errorf("policy engine: %w", err)
	}
	// The key in force: node.key may still name the one before a rotation.
	identity, err := LoadIdentity(ctx, r.tokens, c.Node)
	if err != nil {
		return nil, err
	}
	check := newBlockCheck(r.tokens, engine, identity.PublicKey(), filepath.Join(r.dir, "provenance"))
	defer check.close()
	v, err := ledger.Verify(ctx, ledger.VerifyConfig{
		Config: r.config, Scratch: filepath.Join(scratch, "ledger"), ScratchKeyring: keyring, Block: check.block, Progress: progress,
	})
	if err != nil {
		return nil, stopFirst(err)
	}
	check.end(v)
	return &LedgerVerification{Verification: v, Signed: check.signed, Statements: check.statements}, nil
}
