package appliance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"strongroom/acl"
	"strongroom/acl/bundles"
	"strongroom/acl/endorsement"
	"strongroom/appliance/config"
	"strongroom/ledger/provenance"
	"strongroom/policy/bundle"
	"strongroom/wire"
)

// openBundle puts the bundle of the configuration in force, if it names one, and looks
// for new ones until ctx ends. vetoes is nil for a node that endorses nothing. read gives
// the ledger key of the configuration, and is nil for a node that has no ledgers; the
// source for it, nil without one, is to be told when the key may have changed.
func (n *node) openBundle(ctx context.Context, data string, c config.Bundle, layers *acl.Guard, vetoes *endorsement.Guard, read func() ([]byte, error)) (onLedger *bundles.LedgerKey, err error) {
	if !c.Configured() {
		return nil, n.recordRules(ctx, layers, vetoes)
	}
	pem, err := os.ReadFile(c.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("policy.bundle.publicKey: %w", err)
	}
	key, err := bundle.ParseKey(pem, c.KeyID, c.Scope)
	if err != nil {
		return nil, fmt.Errorf("policy.bundle: %w", err)
	}
	source, err := n.bundleSource(c)
	if err != nil {
		return nil, err
	}
	if c.Ledger != (config.Key{}) && read != nil {
		onLedger = bundles.NewLedgerKey(c.Ledger.Channel+"/"+c.Ledger.Chaincode+"/"+c.Ledger.Key, read, source)
		source = onLedger
	}
	if n.bundle, err = bundles.Open(ctx, bundles.Config{
		Dir: filepath.Join(data, "policy"), Source: source, Poll: time.Duration(c.Poll), Verifier: n.tokens, Key: key,
		Layers: layers, Endorse: vetoes, Masks: n.decisions, Logger: n.log, Observe: n.metrics.Bundle, Record: n.recordBundle,
	}); err != nil {
		return nil, fmt.Errorf("policy.bundle: %w", err)
	}
	n.polling.Go(func() { n.bundle.Run(ctx) })
	b := n.bundle.Current()
	return onLedger, n.record(ctx, "policy.in-force", "bundle revision "+strconv.FormatUint(b.Revision, 10), map[string]string{"sha256": b.Digest.String()})
}

// bundleSource is the file, the folder or the web server of the configuration, whose
// certificate chain is checked in the token too.
func (n *node) bundleSource(c config.Bundle) (bundles.Source, error) {
	switch {
	case c.Folder != "":
		return bundles.Folder(c.Folder), nil
	case c.URL == "":
		return bundles.File(c.File), nil
	}
	roots, err := certPool(c.TLSCACert)
	if err != nil {
		return nil, fmt.Errorf("policy.bundle.tlsCACert: %w", err)
	}
	source, err := bundles.NewURL(c.URL, clientTLS(n.tokens, roots, "", nil))
	if err != nil {
		return nil, fmt.Errorf("policy.bundle.url: %w", err)
	}
	return source, nil
}

// policyKey reads the ledger key that holds policy bundles; nil while the channel is not
// there or the key has no value.
func (p *peer) policyKey() ([]byte, error) {
	k, open := p.config.Policy.Bundle.Ledger, p.ledgers.Load()
	if open == nil {
		return nil, nil
	}
	j, ok := open.get(k.Channel)
	if !ok {
		return nil, nil
	}
	s, err := j.ledger.Snapshot()
	if err != nil {
		return nil, err
	}
	defer s.Release()
	return s.Get(k.Chaincode, k.Key)
}

// watchPolicyKey says when a block writes to the chaincode that holds policy bundles,
// until ctx ends.
func (p *peer) watchPolicyKey(ctx context.Context, key *bundles.LedgerKey) {
	k := p.config.Policy.Bundle.Ledger
	ticker := time.NewTicker(endpointCheck)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if j, ok := p.channels.get(k.Channel); ok {
			from := j.ledger.Height()
			key.Committed()
			for b, err := range j.ledger.ParsedBlocks(ctx, from) {
				if err != nil {
					break // the channel stopped, and says why itself
				}
				if writesTo(b, k.Chaincode) {
					key.Committed()
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

func writesTo(b *wire.Block, namespace string) bool {
	for _, tx := range b.Txs {
		if tx.Endorsed == nil || tx.Endorsed.ReadWriteSet == nil {
			continue
		}
		for i := range tx.Endorsed.ReadWriteSet.Namespaces {
			if ns := &tx.Endorsed.ReadWriteSet.Namespaces[i]; ns.Namespace == namespace && ns.Writes() {
				return true
			}
		}
	}
	return false
}

// policyBundles is what statements say of the bundle in force.
func (n *node) policyBundles() []provenance.PolicyBundle {
	if n.bundle == nil {
		return nil
	}
	b := n.bundle.Current()
	return []provenance.PolicyBundle{{Name: "policy", Revision: strconv.FormatUint(b.Revision, 10), Digest: b.Digest.String()}}
}
