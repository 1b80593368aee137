package appliance

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"strongroom/acl"
	"strongroom/acl/decisions"
	"strongroom/acl/endorsement"
	"strongroom/appliance/config"
	"strongroom/appliance/version"
	"strongroom/bccsp/pkcs11"
	"strongroom/ledger/auditlog"
	"strongroom/ledger/seal"
	"strongroom/policy"
)

// auditDir is the folder of the audit log in a node's data folder.
const auditDir = "audit"

// AuditDir is the folder of the audit log in a data folder.
func AuditDir(data string) string { return filepath.Join(data, auditDir) }

// openAudit opens the node's audit log and the decision log in it. From then on every
// decision and every act is recorded.
func (n *node) openAudit(ctx context.Context, data string, keyring *seal.Keyring, c config.Audit, p config.Policy, name string) error {
	log, err := auditlog.Open(ctx, auditlog.Config{
		Dir: AuditDir(data), Keyring: keyring, Current: func() auditlog.Signer { return n.identity.Current() }, Verifier: n.tokens,
		Drop: c.WhenFull == config.AuditDrop, Strict: c.Strict, SegmentBytes: int64(c.SegmentMiB) << 20, Keep: time.Duration(c.Keep),
		Logger: n.log, Observe: n.metrics.Audit,
	})
	if err != nil {
		return err
	}
	n.audit = log
	n.tokens.Tell(n.recordAlarm)
	if n.ops != nil {
		n.ops.AddCheck("audit log", log.Healthy)
	}
	if n.decisions, err = decisions.New(decisions.Config{
		Store: decisions.StoreFunc(func(ctx context.Context, e decisions.Entry, size int) error { return log.Put(ctx, e, size) }),
		Labels: map[string]string{
			"app": "strongroom", "id": n.identity.PublicKey().ID().String(), "node": name,
			"mspid": string(n.identity.MSPID), "version": version.Read().Version,
		},
	}); err != nil {
		return err
	}
	if p.Mask != "" {
		mask, err := policy.LoadMask(p.Mask, 0)
		if err != nil {
			return fmt.Errorf("policy.mask: %w", err)
		}
		n.decisions.Mask(mask)
	}
	return log.Act(ctx, auditlog.Act{Name: "node.start", Actor: "node", Subject: name, Details: map[string]string{
		"version": version.Read().Version, "opa": policy.OPAVersion, "certificate": n.identity.Certificate.SerialNumber.Text(16),
		"notAfter": n.identity.Certificate.NotAfter.UTC().Format(time.RFC3339), "token": n.tokens.Own.Info().Serial,
	}})
}

// sink is where guards put their decisions.
func (n *node) sink() decisions.Sink {
	if n.decisions == nil {
		return nil // a typed nil would be none
	}
	return n.decisions
}

// closeAudit records that the node stops, and closes the log.
func (n *node) closeAudit() error {
	if n.audit == nil {
		return nil
	}
	n.polling.Wait() // the bundle's source records, too
	n.tokens.Tell(nil)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := n.audit.Act(ctx, auditlog.Act{Name: "node.stop", Actor: "node"})
	return errors.Join(err, n.audit.Close())
}

// record records what the node itself does.
func (n *node) record(ctx context.Context, name, subject string, details map[string]string) error {
	if n.audit == nil {
		return nil
	}
	return n.audit.Act(ctx, auditlog.Act{Name: name, Actor: "node", Subject: subject, Details: details})
}

// trailOf is the node's audit log for services, nil without one.
func (n *node) trailOf() auditlog.Trail {
	if n.audit == nil {
		return nil
	}
	return n.audit
}

// recordRules records which rules of files are in force, by the digests that decisions name.
func (n *node) recordRules(ctx context.Context, layers *acl.Guard, vetoes *endorsement.Guard) error {
	digests := map[string]string{}
	for l, p := range layers.Programs() {
		digests[string(l)] = p.Digest().String()
	}
	if vetoes != nil && vetoes.Program() != nil {
		digests["endorsement"] = vetoes.Program().Digest().String()
	}
	return n.record(ctx, "policy.in-force", "files", digests)
}

// recordBundle records that a policy bundle comes in force, or is refused.
func (n *node) recordBundle(ctx context.Context, revision uint64, digest policy.Digest, refused error) error {
	if n.audit == nil {
		return nil
	}
	a := auditlog.Act{Name: "policy.change", Actor: "node", Details: map[string]string{"sha256": hex.EncodeToString(digest[:])}}
	if revision > 0 {
		a.Subject = "bundle revision " + strconv.FormatUint(revision, 10)
	}
	if refused != nil {
		a.Name, a.Failed = "policy.refuse", refused.Error()
	}
	return n.audit.Act(ctx, a)
}

// recordAlarm records what a token's driver says: among it, a login that was refused. It
// does not hold up the driver.
func (n *node) recordAlarm(token string, event pkcs11.Event, cause error) {
	a := auditlog.Act{Name: "token." + event.String(), Actor: "node", Subject: token, Time: time.Now()}
	if cause != nil {
		a.Failed = cause.Error()
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := n.audit.Act(ctx, a); err != nil {
			n.log.Error("a token alarm was not recorded", "error", err)
		}
	}()
}
