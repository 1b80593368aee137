// Package appliance is the composition root: it builds a peer or an ordering node
// from its configuration, wires the parts together, and runs them until told to
// stop. Only it and cmd construct tokens, stores, policy engines and clients.
package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"strongroom/acl/bundles"
	"strongroom/acl/decisions"
	"strongroom/appliance/config"
	"strongroom/appliance/operations"
	"strongroom/bccsp"
	"strongroom/bccsp/pkcs11"
	"strongroom/channel/configtx"
	"strongroom/ledger/auditlog"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire/msppb"
)

// node is what a peer and an ordering node have in common.
type node struct {
	log       *slog.Logger
	metrics   *operations.Metrics
	ops       *operations.Server // nil without an address
	tokens    *Tokens
	identity  *msp.LocalIdentity
	key       string // label of the identity's key
	engine    *policy.Engine
	bundle    *bundles.Keeper // nil unless the configuration names one
	audit     *auditlog.Log   // nil before openAudit
	decisions *decisions.Log  // in audit
	polling   sync.WaitGroup  // of the bundle's source
}

// OpenToken opens the token of a configuration: it sets the module's environment,
// logs in once and runs the self-test. A device whose firmware profile, if one is
// named, forbids what the peer would use it for is refused before it is opened.
func OpenToken(ctx context.Context, c config.Token, metrics *operations.Metrics) (*pkcs11.Token, error) {
	token, err := openToken(ctx, c, metrics, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	return token, nil
}

// openToken opens one token; with verifiers it only signs.
func openToken(ctx context.Context, c config.Token, metrics *operations.Metrics, alarm func(pkcs11.Event, error), verifiers *pkcs11.Group) (*pkcs11.Token, error) {
	if err := obeyProfile(c, verifiers == nil); err != nil {
		return nil, err
	}
	for name, value := range c.Environment {
		if err := os.Setenv(name, value); err != nil {
			return nil, fmt.Errorf("token.environment.%s: %w", name, err)
		}
	}
	cfg := pkcs11.Config{
		Module:           c.Module,
		Reserved:         c.Reserved,
		TokenLabel:       c.Label,
		TokenSerial:      c.Serial,
		PIN:              pkcs11.PINSource{File: c.PIN.File, Env: c.PIN.Env, Credential: c.PIN.Credential},
		Sessions:         c.Sessions,
		KeyCache:         c.KeyCache,
		CallTimeout:      time.Duration(c.CallTimeout),
		WrappingKeyLabel: c.WrappingKey,
		CheckSignatures:  c.CheckSignatures,
		Alarm:            alarm,
	}
	if metrics != nil {
		cfg.Observe = func(op string, d time.Duration, err error) {
			if errors.Is(err, bccsp.ErrBadSignature) { // an answer, not a failure
				err = nil
			}
			metrics.HSM(op, d, err)
		}
		cfg.PoolWait = metrics.HSMWait
	}
	if verifiers != nil {
		cfg.Verifier = verifiers
	}
	return pkcs11.Open(ctx, cfg)
}

// alarms logs and counts what a token's driver says of its state; docs/operator-hsm.md
// explains each event. metrics may be nil.
func alarms(log *slog.Logger, metrics *operations.Metrics, label string) func(pkcs11.Event, error) {
	return func(event pkcs11.Event, err error) {
		if metrics != nil {
			metrics.TokenAlarm(label, event.String())
			switch event {
			case pkcs11.EventUp:
				metrics.TokenUp(label, true)
			case pkcs11.EventDown, pkcs11.EventStopped:
				metrics.TokenUp(label, false)
			}
		}
		if event == pkcs11.EventUp {
			log.Info("token alarm", "token", label, "event", event.String())
			return
		}
		log.Error("token alarm", "token", label, "event", event.String(), "error", err)
	}
}

// openNode opens the token, loads the identity and the policy engine, and binds the
// operations endpoint. On an error nothing stays open.
func openNode(ctx context.Context, log *slog.Logger, n config.Node, t config.Token, verifiers []config.Token, ops config.Operations) (_ *node, err error) {
	nd := &node{log: log, key: n.Key, metrics: operations.NewMetrics()}
	defer func() {
		if err != nil {
			err = errors.Join(err, nd.close())
		}
	}()
	if nd.tokens, err = OpenTokens(ctx, t, verifiers, nd.metrics, log); err != nil {
		return nil, err
	}
	for _, token := range nd.tokens.open {
		info := token.Info()
		log.Info("token is open and passed its self-test", "label", info.Label, "serial", info.Serial, "model", info.Model, "firmware", info.Firmware)
	}
	if nd.identity, err = LoadIdentity(ctx, nd.tokens, n); err != nil {
		return nil, err
	}
	log.Info("identity is loaded", "subject", nd.identity.Certificate.Subject.String(), "key", nd.identity.PublicKey().ID().String())
	if nd.engine, err = policy.NewEngine(policy.Config{}); err != nil {
		return nil, fmt.Errorf("policy engine: %w", err)
	}
	if ops.Address != "" {
		if nd.ops, err = operations.Listen(ops.Address, nd.metrics.Registry, log); err != nil {
			return nil, err
		}
		nd.ops.AddCheck("hsm", nd.tokens.Healthy)
		if ops.Pprof {
			nd.ops.EnableProfiles()
		}
	}
	return nd, nil
}

func (n *node) deps() configtx.Deps {
	return configtx.Deps{Verifier: n.tokens, Engine: n.engine}
}

// close closes the tokens, after the context of the node's work has ended.
func (n *node) close() error {
	n.polling.Wait()
	if n.tokens == nil {
		return nil
	}
	return n.tokens.Close()
}

// addDiskCheck makes health fail when the folder cannot be written.
func (n *node) addDiskCheck(dir string) {
	if n.ops == nil {
		return
	}
	n.ops.AddCheck("disk", func(context.Context) error {
		f, err := os.CreateTemp(dir, ".health-*")
		if err != nil {
			return err
		}
		name := f.Name()
		_, err = f.Write([]byte("ok"))
		return errors.Join(err, f.Sync(), f.Close(), os.Remove(name))
	})
}

// localMSP is the node's own organisation, for requests that concern no channel.
func (n *node) localMSP(ctx context.Context, id config.Node) (*msp.Set, error) {
	conf, err := msp.LoadDirectory(id.MSP, msp.ID(id.MSPID))
	if err != nil {
		return nil, fmt.Errorf("node.msp: %w", err)
	}
	set, err := msp.NewSet(ctx, n.tokens, []*msppb.MSPConfig{conf})
	if err != nil {
		return nil, fmt.Errorf("node.msp: %w", err)
	}
	return set, nil
}

// makeDir makes a private folder for a part of the node's data.
func makeDir(parts ...string) (string, error) {
	dir := filepath.Join(parts...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("data: %w", err)
	}
	return dir, nil
}
