package provenance

import "crypto/x509"

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
