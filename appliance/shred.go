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
	"strongroom/ledger/auditlog"
	"strongroom/ledger/provenance"
	"strongroom/ledger/seal"
)

// Shredding is what Shred did, or what it would destroy.
type Shredding struct {
	Channel     string `json:"channel"`
	Namespace   string `json:"namespace"`
	Keys        uint64 `json:"keys"`        // in the state
	PrivateKeys uint64 `json:"privateKeys"` // hashes of private keys
	DataKeys    int    `json:"dataKeys"`    // of the namespace, in the keyring
	Height      uint64 `json:"height"`
	// Record is the line that the keyring has about it; nil when nothing was destroyed.
	Record *seal.Shredded `json:"record,omitempty"`
	// Statement is the file of the signed statement about it.
	Statement string `json:"statement,omitempty"`
}

// Confirmation is what must be given to Shred so that it destroys anything.
func (s *Shredding) Confirmation() string { return s.Channel + "/" + s.Namespace }

// Shred destroys the data keys of a namespace of a channel, with the peer stopped, if
// confirm is CHANNEL/NAMESPACE. Otherwise it only tells what would be lost. A peer that
// runs gives an error that wraps seal.ErrInUse.
//
// Crash points: see seal.Keyring.Shred. When it was interrupted before the token remembers,
// the peer's next start has it remember; a statement that is missing is signed when
// Shred is run again, which adds a line to the record.
func Shred(ctx context.Context, c *config.Peer, channel, namespace, confirm string, logTo io.Writer) (_ *Shredding, err error) {
	if err := harden(); err != nil {
		return nil, err
	}
	if !seal.OwnKeys(namespace) {
		return nil, fmt.Errorf("namespace %q belongs to the system: only chaincode's namespaces can be shredded", namespace)
	}
	dir := filepath.Join(c.Data, "channels", channel)
	if _, err := os.Stat(dir); err != nil || filepath.Base(channel) != channel {
		return nil, fmt.Errorf("the data folder %s has no channel %q: correct the name", c.Data, channel)
	}
	log := newLogger(c.Log, c.Node.Name, logTo)
	n, err := openNode(ctx, log, c.Node, c.Token, c.Verifiers, config.Operations{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	keyring, err := openKeyring(ctx, n, c.Data)
	if err != nil {
		return nil, stopFirst(err)
	}
	defer func() { err = errors.Join(err, keyring.Close()) }()
	open := func() (*ledger.Ledger, error) {
		return ledger.Open(ctx, ledger.Config{
			Dir: filepath.Join(dir, "ledger"), ChannelID: channel, Keyring: keyring, Logger: log,
			Checkpoints: n.tokens.Keeper, CheckpointName: checkpointName(c.Node.Key, channel),
		})
	}
	s := &Shredding{Channel: channel, Namespace: namespace}
	if err := s.count(ctx, keyring, open); err != nil {
		return nil, err
	}
	if confirm != s.Confirmation() {
		return s, nil
	}
	act := auditlog.Act{Name: "namespace.shred", Actor: Operator(), Subject: channel + " " + namespace}
	if err := RecordOffline(ctx, n.tokens, keyring, &config.NodeFile{Node: c.Node, Data: c.Data, Audit: c.Audit}, act); err != nil {
		return nil, fmt.Errorf("nothing was destroyed: %w", err)
	}
	if s.Record, err = keyring.Shred(channel, namespace); err != nil {
		return nil, err
	}
	log.Warn("the keys of a namespace were destroyed", "channel", channel, "namespace", namespace, "keys", s.Record.Keys, "digest", s.Record.Digest)
	// Opening the ledger erases what indexes hold of the values.
	l, err := open()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(l.Remember(ctx), l.Close()); err != nil {
		return nil, fmt.Errorf("the keys are destroyed; the token does not remember it yet, the peer's next start has it do so: %w", err)
	}
	if s.Statement, err = n.signShredding(ctx, c.Data, len(keyring.Shredded()), s); err != nil {
		return nil, fmt.Errorf("the keys are destroyed; there is no signed statement about it: %w", err)
	}
	return s, nil
}

// count says what there is of the namespace.
func (s *Shredding) count(ctx context.Context, keyring *seal.Keyring, open func() (*ledger.Ledger, error)) error {
	l, err := open()
	if err != nil {
		return err
	}
	stats, err := l.Stats(ctx, nil)
	if err := errors.Join(err, l.Close()); err != nil {
		return err
	}
	of := stats.Namespaces[s.Namespace]
	s.Keys, s.PrivateKeys, s.Height = of.Keys, of.PrivateKeys, stats.Height
	if s.DataKeys, err = keyring.Keys(s.Channel, s.Namespace); err != nil {
		return err
	}
	if s.DataKeys == 0 && s.Keys == 0 && s.PrivateKeys == 0 {
		return fmt.Errorf("channel %q has nothing of a namespace %q: correct the name", s.Channel, s.Namespace)
	}
	return nil
}

// signShredding writes the signed statement about a line of the keyring's record.
func (n *node) signShredding(ctx context.Context, data string, line int, s *Shredding) (string, error) {
	by, cert := n.statementSigner()
	peer, err := n.describe()
	if err != nil {
		return "", err
	}
	peer.Signer = provenance.IdentityOf(peer.Signer.MSPID, cert)
	bundle, err := provenance.SignShredding(ctx, by, peer, s.Record.Digest, s.Record.Time, provenance.ShreddingPredicate{
		Channel: s.Channel, Namespace: s.Namespace, ThroughTerm: s.Record.Through, Keys: s.Record.Keys, Height: s.Height,
	})
	if err != nil {
		return "", err
	}
	dir, err := makeDir(data, "shredded")
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, fmt.Sprintf("%06d.sigstore.json", line))
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	_, err = f.Write(bundle)
	return name, errors.Join(err, f.Sync(), f.Close())
}
