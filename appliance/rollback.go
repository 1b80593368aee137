package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"strongroom/appliance/config"
	"strongroom/bccsp"
	"strongroom/channel/configtx"
	"strongroom/ledger"
	"strongroom/ledger/auditlog"
	"strongroom/ledger/seal"
	"strongroom/ordering"
	"strongroom/policy"
)

// checkpointName is under which name the token remembers a node's ledger of a
// channel. Nodes that share a token have keys of different labels.
func checkpointName(key, channel string) string { return key + "/" + channel }

// orderingCheckpoints is how a node's ordering service remembers its channels, under other
// names than a ledger of the same channel that the same key signs for.
func orderingCheckpoints(token bccsp.Checkpoints, key string, keyring *seal.Keyring) *ordering.Checkpoints {
	return &ordering.Checkpoints{Token: token, Term: keyring.Term,
		Name: func(channel string) string { return key + "/ordering/" + channel }}
}

// AcceptOrderingRollback is AcceptRollback for the log of an ordering node.
func AcceptOrderingRollback(ctx context.Context, c *config.Orderer, channel string, logTo io.Writer) (_ *RollbackAccepted, err error) {
	if err := harden(); err != nil {
		return nil, err
	}
	log := newLogger(c.Log, c.Node.Name, logTo)
	tokens, err := OpenTokens(ctx, c.Token, c.Verifiers, nil, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tokens.Close()) }()
	identity, err := LoadIdentity(ctx, tokens, c.Node)
	if err != nil {
		return nil, err
	}
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		return nil, fmt.Errorf("policy engine: %w", err)
	}
	keyring, err := seal.OpenKeyring(ctx, filepath.Join(c.Data, "keyring"), tokens.Keeper)
	if err != nil {
		return nil, stopFirst(fmt.Errorf("keyring: %w", err))
	}
	defer func() { err = errors.Join(err, keyring.Close()) }()
	a, err := ordering.AcceptRollback(ctx, ordering.Config{
		Dir: filepath.Join(c.Data, "ordering"), Identity: identity, Deps: configtx.Deps{Verifier: tokens, Engine: engine},
		Sealer: recordSealer{keyring}, Logger: log, Checkpoints: orderingCheckpoints(tokens.Keeper, c.Node.Key, keyring),
	}, channel)
	if err != nil {
		return nil, err
	}
	return &RollbackAccepted{Height: a.Height, Accepted: a.Accepted, New: a.New}, nil
}

// RollbackAccepted is what AcceptRollback did.
type RollbackAccepted struct {
	Height   uint64   // of the ledger as it is
	Accepted []string // all rollbacks that the token remembers, oldest first: height remembered, height found, time
	New      bool     // whether the last of them was accepted now
}

// AcceptRollback opens a channel's ledger of a peer that is stopped and, if it is
// behind what the token remembers, has the token remember it as it is. A peer that
// runs gives an error that wraps seal.ErrInUse.
func AcceptRollback(ctx context.Context, c *config.Peer, channel string, logTo io.Writer) (r *RollbackAccepted, err error) {
	if err := harden(); err != nil {
		return nil, err
	}
	tokens, err := OpenTokens(ctx, c.Token, c.Verifiers, nil, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tokens.Close()) }()
	token := tokens.Keeper
	name := checkpointName(c.Node.Key, channel)
	dir := filepath.Join(c.Data, "channels", channel)
	before, err := token.LoadCheckpoints(ctx, name)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); len(before) == 0 && errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("neither the data folder %s nor the token knows channel %q of the key %q: correct the name", c.Data, channel, c.Node.Key)
	}
	keyring, err := seal.OpenKeyring(ctx, filepath.Join(c.Data, "keyring"), token)
	if errors.Is(err, seal.ErrInUse) {
		return nil, fmt.Errorf("keyring: %w: stop the peer first", err)
	}
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	defer func() { err = errors.Join(err, keyring.Close()) }()
	act := auditlog.Act{Name: "ledger.accept-rollback", Actor: Operator(), Subject: channel}
	record := func(act auditlog.Act) error {
		return RecordOffline(ctx, tokens, keyring, &config.NodeFile{Node: c.Node, Data: c.Data, Audit: c.Audit}, act)
	}
	if err := record(act); err != nil {
		return nil, err
	}
	l, err := ledger.Open(ctx, ledger.Config{
		Dir: filepath.Join(dir, "ledger"), ChannelID: channel, Keyring: keyring, Logger: newLogger(c.Log, c.Node.Name, logTo),
		Checkpoints: token, CheckpointName: name, AcceptRollback: true,
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	r = &RollbackAccepted{Height: l.Height(), Accepted: l.AcceptedRollbacks(), New: l.RolledBack()}
	if r.New {
		act.Name = "ledger.rollback-accepted"
		act.Details = map[string]string{"remembered, found, time": r.Accepted[len(r.Accepted)-1]}
		err = record(act)
	}
	return r, err
}
