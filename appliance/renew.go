package appliance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"strongroom/appliance/config"
	"strongroom/bccsp"
	"strongroom/msp"
	"strongroom/wire/commonpb"
)

// Names of a node's certificates, in logs, warnings and metrics.
const (
	identityCertificate = "identity"
	tlsCertificate      = "TLS"
)

const (
	// expiryWarning is how long before its end a certificate is warned of.
	expiryWarning = 30 * 24 * time.Hour
	// renewalInterval is how often the certificate files are looked at.
	renewalInterval = 30 * time.Second
	// renewalTimeout bounds the checks of a new certificate in the token.
	renewalTimeout = 30 * time.Second
)

// servedCertificate is the TLS certificate in force: each handshake takes it anew.
type servedCertificate struct {
	atomic.Pointer[tls.Certificate]
}

// renewal takes over renewed certificates while the node runs: of the keys that it has, or
// of other keys in its token. A certificate that is not good leaves the one in force as
// it is.
type renewal struct {
	node   *node
	id     config.Node
	listen config.Listen
	served *servedCertificate
	local  *msp.Set // nil when the node has no MSP folder
	// admit, when set, tells whether this node's channels take an identity as its own.
	admit func(context.Context, *msp.LocalIdentity) error

	// checking is held over one look at the files.
	checking sync.Mutex
	seen     map[string][sha256.Size]byte // by certificate: the file's content when it was last looked at; guarded by checking

	mu      sync.Mutex
	refused map[string]string // by certificate: why its file was refused; guarded by mu
}

// renewals begins to look after the node's certificates, until ctx ends: at SIGHUP and
// every renewalInterval.
func (n *node) renewals(ctx context.Context, id config.Node, listen config.Listen, served *servedCertificate, local *msp.Set,
	admit func(context.Context, *msp.LocalIdentity) error) {
	r := n.newRenewal(id, listen, served, local)
	r.admit = admit
	if n.ops != nil {
		n.ops.AddWarning(func() []string { return r.warnings(time.Now()) })
	}
	for _, w := range r.warnings(time.Now()) {
		n.log.Warn(w)
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hangup)
		tick := time.NewTicker(renewalInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				r.look(ctx, false)
			case <-hangup:
				r.look(ctx, true)
			}
		}
	}()
}

func (n *node) newRenewal(id config.Node, listen config.Listen, served *servedCertificate, local *msp.Set) *renewal {
	r := &renewal{
		node: n, id: id, listen: listen, served: served, local: local,
		seen: map[string][sha256.Size]byte{}, refused: map[string]string{},
	}
	r.publish()
	return r
}

// look reads both files and takes over what changed. asked tells that an operator wants
// an answer in the log even if nothing changed.
func (r *renewal) look(ctx context.Context, asked bool) {
	r.checking.Lock()
	defer r.checking.Unlock()
	r.lookAt(ctx, asked, identityCertificate, r.id.Certificate, r.renewIdentity)
	r.lookAt(ctx, asked, tlsCertificate, r.listen.TLSCertificate, r.renewTLS)
	r.publish()
}

func (r *renewal) lookAt(ctx context.Context, asked bool, name, file string, renew func(context.Context, []byte) (changed bool, err error)) {
	log := r.node.log.With("certificate", name, "file", file)
	content, err := os.ReadFile(file)
	sum := sha256.Sum256(content)
	if err == nil && !asked && r.seen[name] == sum {
		return
	}
	var changed bool
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, renewalTimeout)
		changed, err = renew(ctx, content)
		cancel()
	}
	before := r.refusal(name)
	switch {
	case err != nil && ctx.Err() != nil:
		return
	case err != nil:
		if asked || before != err.Error() {
			log.Error("certificate is not taken over, the one before stays in force", "error", err)
		}
		r.setRefusal(name, err.Error())
		return // not seen: what the token could not answer now it may answer later
	case changed:
		log.Info("renewed certificate is in force", "notAfter", r.notAfter(name))
		if err := r.node.record(ctx, "certificate.renew", name, map[string]string{"sha256": fmt.Sprintf("%x", sum), "notAfter": r.notAfter(name).UTC().Format(time.RFC3339)}); err != nil {
			log.Error("the renewal was not recorded", "error", err)
		}
	case asked:
		log.Info("certificate is in force already", "notAfter", r.notAfter(name))
	}
	r.seen[name] = sum
	r.setRefusal(name, "")
}

// renewIdentity takes over the node's certificate for what it signs. Who signs already
// ends with the identity before; there is no moment without one.
func (r *renewal) renewIdentity(ctx context.Context, content []byte) (bool, error) {
	current := r.node.identity.Current()
	next, err := bindIdentity(ctx, r.node.tokens, r.id, content)
	if err != nil {
		return false, err
	}
	if bytes.Equal(next.Certificate.Raw, current.Certificate.Raw) {
		return false, nil
	}
	rotated := !next.PublicKey().Equal(current.PublicKey())
	if err = r.admissible(ctx, current, next); err == nil {
		err = r.node.identity.Renew(next, time.Now())
	}
	switch {
	case !rotated:
	case err != nil:
		r.node.tokens.Retire(next.PublicKey())
	default:
		r.node.tokens.Retire(current.PublicKey())
		r.node.log.Info("identity's key is rotated", "key", next.PublicKey().ID().String(), "before", current.PublicKey().ID().String())
	}
	return err == nil, err
}

// admissible checks that who takes the node's messages now will take them from next.
func (r *renewal) admissible(ctx context.Context, current, next *msp.LocalIdentity) error {
	if r.local != nil {
		if err := sameRoles(ctx, r.local, current, next); err != nil {
			return err
		}
	}
	if r.admit != nil {
		return r.admit(ctx, next)
	}
	return nil
}

// sameRoles checks that next is a valid member of the organization, with the roles that
// current has, so that another member's certificate does not become the node's by mistake.
func sameRoles(ctx context.Context, local *msp.Set, current, next *msp.LocalIdentity) error {
	is, err := local.Identity(ctx, next.Serialized)
	if err != nil {
		return err
	}
	was, err := local.Identity(ctx, current.Serialized)
	if msp.IsInvalid(err) {
		return nil // it was revoked, and says nothing of roles
	}
	if err != nil {
		return err
	}
	for _, role := range []commonpb.MSPRole_MSPRoleType{commonpb.MSPRole_CLIENT, commonpb.MSPRole_PEER, commonpb.MSPRole_ADMIN, commonpb.MSPRole_ORDERER} {
		principal, err := proto.Marshal(&commonpb.MSPRole{MspIdentifier: string(next.MSPID), Role: role})
		if err != nil {
			return err
		}
		p := &commonpb.MSPPrincipal{PrincipalClassification: commonpb.MSPPrincipal_ROLE, Principal: principal}
		before, err := local.Satisfies(was, p)
		if err != nil {
			return err
		}
		after, err := local.Satisfies(is, p)
		if err != nil {
			return err
		}
		if before != after {
			return fmt.Errorf("it is a certificate of another role: %s is %t, and was %t", role, after, before)
		}
	}
	return nil
}

// renewTLS takes over the certificate of the node's gRPC endpoint.
func (r *renewal) renewTLS(ctx context.Context, content []byte) (bool, error) {
	chain, err := parseCertificates(r.listen.TLSCertificate, content)
	if err != nil {
		return false, err
	}
	current := r.served.Load()
	next, err := bindTLS(ctx, r.node.tokens, chain, r.listen.TLSCertificate, r.listen.TLSKey)
	if err != nil {
		return false, err
	}
	if sameChain(next, current) {
		return false, nil
	}
	was, is := keyOf(current), keyOf(next)
	now := time.Now()
	if now.Before(next.Leaf.NotBefore) || now.After(next.Leaf.NotAfter) {
		err = fmt.Errorf("it is valid from %s to %s", next.Leaf.NotBefore.Format(time.RFC3339), next.Leaf.NotAfter.Format(time.RFC3339))
	} else if err = namesAll(next.Leaf, current.Leaf); err == nil {
		r.served.Store(next)
	}
	switch {
	case was.Equal(is):
	case err != nil:
		r.node.tokens.Retire(is)
	default:
		r.node.tokens.Retire(was)
		r.node.log.Info("TLS key is rotated", "key", is.ID().String(), "before", was.ID().String())
	}
	return err == nil, err
}

// keyOf is the key of a certificate that was bound to it.
func keyOf(c *tls.Certificate) *bccsp.PublicKey {
	key, err := bccsp.NewPublicKey(c.Leaf.PublicKey)
	if err != nil {
		panic("appliance: a bound certificate has no key: " + err.Error())
	}
	return key
}

func sameChain(a, b *tls.Certificate) bool {
	if len(a.Certificate) != len(b.Certificate) {
		return false
	}
	for i := range a.Certificate {
		if !bytes.Equal(a.Certificate[i], b.Certificate[i]) {
			return false
		}
	}
	return true
}

// namesAll checks that a renewed server certificate has every name of the one before:
// without one of them, clients would refuse the node.
func namesAll(next, before *x509.Certificate) error {
	var missing []error
	for _, name := range before.DNSNames {
		if !slices.Contains(next.DNSNames, name) && next.VerifyHostname(name) != nil {
			missing = append(missing, fmt.Errorf("it lacks the DNS name %q of the one in force", name))
		}
	}
	for _, address := range before.IPAddresses {
		if next.VerifyHostname(address.String()) != nil {
			missing = append(missing, fmt.Errorf("it lacks the address %s of the one in force", address))
		}
	}
	return errors.Join(missing...)
}

func (r *renewal) refusal(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused[name]
}

func (r *renewal) setRefusal(name, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused[name] = why
}

// notAfter is the end of the certificate in force.
func (r *renewal) notAfter(name string) time.Time {
	if name == tlsCertificate {
		return r.served.Load().Leaf.NotAfter
	}
	return r.node.identity.Current().Certificate.NotAfter
}

// publish puts the ends of the certificates in force into the metrics.
func (r *renewal) publish() {
	for _, name := range []string{identityCertificate, tlsCertificate} {
		r.node.metrics.NotAfter(name, r.notAfter(name))
	}
}

// warnings says what an operator must do about the certificates, in time.
func (r *renewal) warnings(now time.Time) []string {
	var all []string
	for _, name := range []string{identityCertificate, tlsCertificate} {
		end := r.notAfter(name)
		switch left := end.Sub(now); {
		case left <= 0:
			all = append(all, fmt.Sprintf("%s certificate expired at %s: renew it, other nodes refuse it", name, end.Format(time.RFC3339)))
		case left < expiryWarning:
			all = append(all, fmt.Sprintf("%s certificate expires at %s, in %d days: renew it", name, end.Format(time.RFC3339), int(left/(24*time.Hour))))
		}
		if why := r.refusal(name); why != "" {
			all = append(all, fmt.Sprintf("%s certificate's file is not taken over: %s", name, why))
		}
	}
	return all
}
