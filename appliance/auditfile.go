package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"

	"strongroom/appliance/config"
	"strongroom/bccsp/pkcs11"
	"strongroom/ledger/auditlog"
	"strongroom/ledger/seal"
)

// AuditFile is a node's audit log, open for reading. The node may run. It is for one
// goroutine.
type AuditFile struct {
	Config      *config.NodeFile
	Token       *pkcs11.Token
	Certificate []byte // the node's, PEM

	keyring *seal.Keyring
}

// OpenAuditFile opens the audit log of the node with a configuration: it takes the
// node's token, whose key opens the records, and its data folder.
func OpenAuditFile(ctx context.Context, c *config.NodeFile) (_ *AuditFile, err error) {
	a := &AuditFile{Config: c}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if a.Certificate, err = os.ReadFile(c.Node.Certificate); err != nil {
		return nil, fmt.Errorf("node.certificate: %w", err)
	}
	if a.Token, err = OpenToken(ctx, c.Token, nil); err != nil {
		return nil, err
	}
	if a.keyring, err = seal.OpenKeyringReadOnly(filepath.Join(c.Data, "keyring"), a.Token); err != nil {
		return nil, err
	}
	return a, nil
}

// Slice writes a range of records with what shows that it is whole.
func (a *AuditFile) Slice(w io.Writer, rg auditlog.Range) (*auditlog.Head, error) {
	return auditlog.WriteSlice(w, AuditDir(a.Config.Data), a.keyring, a.Certificate, rg)
}

// Read reads records from a number on, or from the first that is kept.
func (a *AuditFile) Read(from uint64) (*auditlog.Reader, error) {
	return auditlog.OpenReader(AuditDir(a.Config.Data), a.keyring, from)
}

// Close closes the token and wipes the keys.
func (a *AuditFile) Close() error {
	var errs []error
	if a.keyring != nil {
		errs = append(errs, a.keyring.Close())
	}
	if a.Token != nil {
		errs = append(errs, a.Token.Close())
	}
	return errors.Join(errs...)
}

// Operator names who runs this command, for acts: the user of the machine.
func Operator() string {
	u, err := user.Current()
	if err != nil {
		return fmt.Sprintf("uid %d", os.Getuid())
	}
	return "user " + u.Username
}

// RecordOffline records an act on a node that is stopped: the caller holds its keyring.
func RecordOffline(ctx context.Context, token keyHolder, keyring *seal.Keyring, c *config.NodeFile, act auditlog.Act) error {
	identity, err := LoadIdentity(ctx, token, c.Node)
	if err != nil {
		return err
	}
	log, err := auditlog.Open(ctx, auditlog.Config{
		Dir: AuditDir(c.Data), Keyring: keyring, Current: func() auditlog.Signer { return identity }, Verifier: token, SegmentBytes: int64(c.Audit.SegmentMiB) << 20,
	})
	if err != nil {
		return err
	}
	return errors.Join(log.Act(ctx, act), log.Close())
}
