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
)

// openBundle puts the bundle of the configuration in force, if it names one, and looks
// for new ones until ctx ends. vetoes is nil for a node that endorses nothing.
func (n *node) openBundle(ctx context.Context, data string, c config.Bundle, layers *acl.Guard, vetoes *endorsement.Guard) error {
	if !c.Configured() {
		return n.recordRules(ctx, layers, vetoes)
	}
	pem, err := os.ReadFile(c.PublicKey)
	if err != nil {
		return fmt.Errorf("policy.bundle.publicKey: %w", err)
	}
	key, err := bundle.ParseKey(pem, c.KeyID, c.Scope)
	if err != nil {
		return fmt.Errorf("policy.bundle: %w", err)
	}
	var source bundles.Source = bundles.File(c.File)
	if c.Folder != "" {
		source = bundles.Folder(c.Folder)
	}
	if n.bundle, err = bundles.Open(ctx, bundles.Config{
		Dir: filepath.Join(data, "policy"), Source: source, Poll: time.Duration(c.Poll), Verifier: n.tokens, Key: key,
		Layers: layers, Endorse: vetoes, Masks: n.decisions, Logger: n.log, Observe: n.metrics.Bundle, Record: n.recordBundle,
	}); err != nil {
		return fmt.Errorf("policy.bundle: %w", err)
	}
	n.polling.Go(func() { n.bundle.Run(ctx) })
	b := n.bundle.Current()
	return n.record(ctx, "policy.in-force", "bundle revision "+strconv.FormatUint(b.Revision, 10), map[string]string{"sha256": b.Digest.String()})
}

// policyBundles is what statements say of the bundle in force.
func (n *node) policyBundles() []provenance.PolicyBundle {
	if n.bundle == nil {
		return nil
	}
	b := n.bundle.Current()
	return []provenance.PolicyBundle{{Name: "policy", Revision: strconv.FormatUint(b.Revision, 10), Digest: b.Digest.String()}}
}
