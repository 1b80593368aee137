package provenance

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"strongroom/ledger/translog"
)

// signer is who signs at one moment, as the statements say it.
type signer struct {
	StatementSigner
	peer        Peer
	certificate *x509.Certificate // nil where Config gives none
}

// signer asks who signs now. What is made for one signature takes it once.
func (r *Recorder) signer() *signer {
	by := &signer{StatementSigner: r.cfg.Signer, peer: r.cfg.Peer}
	if r.cfg.Current != nil {
		by.StatementSigner, by.certificate = r.cfg.Current()
		by.peer.Signer = IdentityOf(by.peer.Signer.MSPID, by.certificate)
	}
	if by.peer.HSM.KeyID == "" {
		by.peer.HSM.KeyID = by.PublicKey().ID().String()
	}
	return by
}

// signersName is the folder, beside the statements, with a certificate of each key that
// signed any: KEYID.pem.
const signersName = "signers"

// remember keeps the signer's certificate for those who verify its statements when
// another key is in force. It is durable before the first of them.
func (r *Recorder) remember(by *signer) error {
	if by.certificate == nil {
		return nil
	}
	r.naming.Lock()
	defer r.naming.Unlock()
	if r.remembered != nil && r.remembered.Equal(by.certificate) {
		return nil
	}
	dir := filepath.Join(r.cfg.Dir, signersName)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep the signer's certificate: %w", err)
	}
	if err := translog.WriteFile(filepath.Join(dir, by.PublicKey().ID().String()+".pem"), encodePEM(by.certificate)); err != nil {
		return fmt.Errorf("keep the signer's certificate: %w", err)
	}
	r.remembered = by.certificate
	return nil
}

func encodePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// Signers gives, in PEM, the certificate of the key in force, and then one of each key
// that signed statements before, as far as this recorder knows them.
func (r *Recorder) Signers() ([]byte, error) {
	by := r.signer()
	if by.certificate == nil {
		return nil, errors.New("provenance: the signer has no certificate")
	}
	all := encodePEM(by.certificate)
	files, err := filepath.Glob(filepath.Join(r.cfg.Dir, signersName, "*.pem"))
	if err != nil {
		return nil, err
	}
	for _, file := range files { // sorted
		if filepath.Base(file) == by.PublicKey().ID().String()+".pem" {
			continue
		}
		certificate, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		all = append(all, bytes.TrimSpace(certificate)...)
		all = append(all, '\n')
	}
	return all, nil
}
