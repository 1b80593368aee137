package probe

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp"
)

// PayloadType is the DSSE payload type of a signed report.
const PayloadType = "application/vnd.strongroom.probe+json"

// Report is what a probe found.
type Report struct {
	Time       time.Time `json:"time"`
	Token      Token     `json:"token"`
	Profile    string    `json:"profile,omitempty"`
	Quick      bool      `json:"quick"`
	Mechanisms []string  `json:"mechanisms"` // numbers, in hexadecimal
	Results    []Result  `json:"results"`
	Rates      []Rate    `json:"rates,omitempty"`
	// Sessions is the recommended size of the pool, 0 when nothing was measured.
	Sessions int `json:"recommendedSessions"`
	// Key is the public key that the report is signed with, PEM. KeyLabel names it in
	// the token; without one it was made for this report and is gone.
	Key      string `json:"key"`
	KeyLabel string `json:"keyLabel,omitempty"`
}

// Failed lists the checks that failed.
func (r *Report) Failed() (names []string) {
	for _, result := range r.Results {
		if result.Status == Fail {
			names = append(names, result.Check)
		}
	}
	return names
}

// Envelope is a DSSE envelope (https://github.com/secure-systems-lab/dsse).
type Envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     string      `json:"payload"` // base64
	Signatures  []Signature `json:"signatures"`
}

// Signature is one of an envelope: DER in base64.
type Signature struct {
	KeyID string `json:"keyid"`
	Sig   string `json:"sig"`
}

// Signed is a report that the token has signed.
type Signed struct {
	Envelope  Envelope
	PAE       []byte // the bytes that are signed (SHA-256)
	Signature []byte // DER
	PublicKey []byte // PEM
}

// Sign has the token sign the report, with the key of a label, or with one made for it
// when the label is empty. It sets the report's Key and KeyLabel.
func (b *Bench) Sign(ctx context.Context, r *Report, keyLabel string) (*Signed, error) {
	defer b.sweep()
	key, err := b.signingKey(keyLabel)
	if err != nil {
		return nil, fmt.Errorf("key for the report: %w", err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: key.public.SPKI()})
	r.Key, r.KeyLabel = string(public), keyLabel
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	sig, err := bccsp.NewSigner(key).SignStatement(ctx, PayloadType, body)
	if err != nil {
		return nil, fmt.Errorf("sign the report: %w", err)
	}
	return &Signed{
		Envelope: Envelope{PayloadType: PayloadType, Payload: base64.StdEncoding.EncodeToString(body),
			Signatures: []Signature{{KeyID: key.public.ID().String(), Sig: base64.StdEncoding.EncodeToString(sig)}}},
		PAE:       fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(PayloadType), PayloadType, len(body), body),
		Signature: sig,
		PublicKey: public,
	}, nil
}

// reportKey is a private key of the token as bccsp.Signer uses it.
type reportKey struct {
	bench  *Bench
	handle p11.ObjectHandle
	public *bccsp.PublicKey
}

func (b *Bench) signingKey(keyLabel string) (*reportKey, error) {
	if keyLabel == "" {
		public, private, err := b.pair(b.session, elliptic.P256())
		if err != nil {
			return nil, err
		}
		key, err := b.publicKey(public, elliptic.P256())
		return &reportKey{b, private, key}, err
	}
	one := func(class uint) (p11.ObjectHandle, error) {
		found, err := b.find(p11.NewAttribute(p11.CKA_CLASS, class), p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC), p11.NewAttribute(p11.CKA_LABEL, keyLabel))
		if err != nil {
			return 0, err
		}
		if len(found) != 1 {
			return 0, fmt.Errorf("%d EC keys of class %d have the label %q: name one that is there once", len(found), class, keyLabel)
		}
		return found[0], nil
	}
	private, err := one(p11.CKO_PRIVATE_KEY)
	if err != nil {
		return nil, err
	}
	public, err := one(p11.CKO_PUBLIC_KEY)
	if err != nil {
		return nil, err
	}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		if key, err := b.publicKey(public, curve); err == nil {
			return &reportKey{b, private, key}, nil
		}
	}
	return nil, fmt.Errorf("key %q is on neither P-256 nor P-384", keyLabel)
}

func (b *Bench) publicKey(h p11.ObjectHandle, curve elliptic.Curve) (*bccsp.PublicKey, error) {
	point, err := b.point(h, curve)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, err
	}
	return bccsp.NewPublicKey(key)
}

// PublicKey is the key's public half.
func (k *reportKey) PublicKey() *bccsp.PublicKey { return k.public }

// SignDigest is one C_Sign, its answer as DER with low s.
func (k *reportKey) SignDigest(ctx context.Context, digest []byte) ([]byte, error) {
	var sig []byte
	_, err := bounded(ctx, func() (_ string, err error) {
		sig, err = k.bench.sign(k.bench.session, k.handle, digest)
		return "", err
	})
	if err != nil {
		return nil, err
	}
	curve := k.public.Curve()
	r, s, err := split(curve, sig)
	if err != nil {
		return nil, err
	}
	n := curve.Params().N
	if s.Cmp(new(big.Int).Rsh(n, 1)) > 0 {
		s.Sub(n, s)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{r, s})
}

// Config says how thorough a probe is.
type Config struct {
	Expect   Expectations
	Quick    bool   // fewer rounds and shorter measurements
	KeyLabel string // signs the report; "" makes a key for it
	Now      func() time.Time
}

// Probe runs the suite, measures, and has the token sign the report: a token that makes
// no signatures leaves it unsigned, nil. When the device is lost on the way, the report of
// what was seen comes with the error, and is not signed.
func (b *Bench) Probe(ctx context.Context, c Config) (*Report, *Signed, error) {
	r := &Report{Time: c.Now().UTC(), Token: b.token, Profile: c.Expect.Profile, Quick: c.Quick, Mechanisms: b.mechanisms()}
	results, err := b.Run(ctx, c.Expect, c.Quick)
	r.Results = results
	if err != nil {
		return r, nil, err
	}
	each := 300 * time.Millisecond
	if c.Quick {
		each = 50 * time.Millisecond
	}
	r.Rates, r.Sessions, err = b.Rates(ctx, each)
	if err != nil && !errors.Is(err, errMissing) {
		return r, nil, fmt.Errorf("rates: %w", err)
	}
	signed, err := b.Sign(ctx, r, c.KeyLabel)
	if errors.Is(err, errMissing) {
		return r, nil, nil
	}
	return r, signed, err
}
