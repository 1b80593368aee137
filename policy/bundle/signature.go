package bundle

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	opa "github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/util"

	"strongroom/bccsp"
)

// hashAlgorithm is the only one that is taken.
const hashAlgorithm = "SHA-256"

// defaultPlugin is what opa build calls a signature of the standard form; OPA lets
// nobody register another verifier under this name.
const defaultPlugin = "_default"

// Key says who may sign bundles, and for what.
type Key struct {
	Public *bccsp.PublicKey // on P-256
	ID     string           // what the signature must call it, if it names a key
	Scope  string           // what the signature must say it is for; "" for nothing
}

// ParseKey reads the PEM of a public key or of a certificate.
func ParseKey(pemBytes []byte, id, scope string) (Key, error) {
	block, rest := pem.Decode(pemBytes)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return Key{}, errors.New("verification key: the file must hold one PEM block, PUBLIC KEY or CERTIFICATE")
	}
	var pub any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		pub, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "CERTIFICATE":
		var c *x509.Certificate
		if c, err = x509.ParseCertificate(block.Bytes); err == nil {
			pub = c.PublicKey
		}
	default:
		err = fmt.Errorf("the PEM block is a %.32q: give PUBLIC KEY or CERTIFICATE", block.Type)
	}
	if err != nil {
		return Key{}, fmt.Errorf("verification key: %w", err)
	}
	k := Key{ID: id, Scope: scope}
	if k.Public, err = bccsp.NewPublicKey(pub); err != nil {
		return Key{}, fmt.Errorf("verification key: %w", err)
	}
	return k, k.validate()
}

func (k Key) validate() error {
	switch {
	case k.Public == nil || k.Public.Curve() != elliptic.P256():
		return errors.New("verification key: bundles are signed with ES256: give a key on P-256")
	case k.ID == "":
		return errors.New("verification key: its id is empty: give the one that signatures carry")
	}
	return nil
}

// signatures is a .signatures.json.
type signatures struct {
	Signatures []string `json:"signatures"`
	Plugin     string   `json:"plugin,omitempty"`
}

// verify checks the signature and that it covers every file, as it is.
func verify(ctx context.Context, v bccsp.Verifier, key Key, files Contents) error {
	if err := key.validate(); err != nil {
		return err
	}
	content, ok := files[signaturesFile]
	if !ok {
		return fmt.Errorf("%w: .signatures.json is missing: sign it with strongroom policy sign or opa build --signing-key", ErrUnsigned)
	}
	var s signatures
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil || dec.More() {
		return errors.New(".signatures.json does not parse: it has a list named signatures")
	}
	if s.Plugin != "" && s.Plugin != defaultPlugin {
		return fmt.Errorf(".signatures.json asks for the verifier %.64q: the peer chooses how it verifies: leave plugin empty", s.Plugin)
	}
	switch {
	case len(s.Signatures) == 0:
		return fmt.Errorf("%w: .signatures.json holds no signature", ErrUnsigned)
	case len(s.Signatures) > 1:
		return errors.New(".signatures.json holds more than one signature")
	}
	claims, err := verifyToken(ctx, v, key, s.Signatures[0])
	if err != nil {
		return err
	}
	return compare(claims, files)
}

// verifyToken checks a JSON Web Signature: the algorithm is ours, whatever it says.
func verifyToken(ctx context.Context, v bccsp.Verifier, key Key, token string) (*bccsp.BundleClaims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New(".signatures.json: the signature is not a compact JSON Web Signature")
	}
	var decoded [3][]byte
	for i, p := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.Strict().DecodeString(p); err != nil {
			return nil, fmt.Errorf(".signatures.json: part %d of the signature is not base64url", i+1)
		}
	}
	var header struct {
		Alg string `json:"alg"`
		Kid string `json:"kid"`
		Typ string `json:"typ"`
	}
	dec := json.NewDecoder(bytes.NewReader(decoded[0]))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&header); err != nil {
		return nil, fmt.Errorf(".signatures.json: the signature's header: %w: only alg, kid and typ are known", err)
	}
	if header.Alg != "ES256" {
		return nil, fmt.Errorf(".signatures.json: the signature's algorithm is %.32q: sign with ES256", header.Alg)
	}
	der, err := derSignature(decoded[2])
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := v.VerifyX509(ctx, key.Public, digest[:], der); err != nil {
		if !errors.Is(err, bccsp.ErrBadSignature) {
			err = fmt.Errorf("%w: %w", ErrNotAnswered, err)
		}
		return nil, fmt.Errorf("signature by key %q: %w", key.ID, err)
	}
	claims := new(bccsp.BundleClaims)
	if err := json.Unmarshal(decoded[1], claims); err != nil {
		return nil, fmt.Errorf(".signatures.json: the signature's payload: %w", err)
	}
	// opa build with a claims file names no key: ours is configured, so that is no matter.
	for _, id := range []string{header.Kid, claims.KeyID} {
		if id != "" && id != key.ID {
			return nil, fmt.Errorf(".signatures.json: the signature's key id is %.64q: %q is configured", id, key.ID)
		}
	}
	if claims.Scope != key.Scope {
		return nil, fmt.Errorf(".signatures.json: the signature's scope is %.64q: %q is configured", claims.Scope, key.Scope)
	}
	return claims, nil
}

// derSignature turns the r and s of ES256 into the form that tokens are asked in.
func derSignature(raw []byte) ([]byte, error) {
	if len(raw) != 64 {
		return nil, fmt.Errorf("%w: an ES256 signature has 64 bytes, this one %d", bccsp.ErrBadSignature, len(raw))
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])})
}

// compare holds the files against the hashes that were signed.
func compare(claims *bccsp.BundleClaims, files Contents) error {
	signed := make(map[string]bccsp.BundleFile, len(claims.Files))
	for _, f := range claims.Files {
		if _, twice := signed[f.Name]; twice {
			return fmt.Errorf(".signatures.json: %.64q is signed twice", f.Name)
		}
		signed[f.Name] = f
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name == signaturesFile {
			continue
		}
		f, ok := signed[name]
		if !ok {
			return fmt.Errorf("%s is not covered by the signature", name)
		}
		delete(signed, name)
		if f.Algorithm != hashAlgorithm {
			return fmt.Errorf(".signatures.json: %s is hashed with %.32q: only %s is taken", name, f.Algorithm, hashAlgorithm)
		}
		got, err := hashFile(name, files[name])
		if err != nil {
			return err
		}
		if want, err := hex.DecodeString(f.Hash); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("%s is not the file that was signed: its hash is %x", name, got)
		}
	}
	for name := range signed {
		return fmt.Errorf("%.64q was signed, but is not in the archive", name)
	}
	return nil
}

// hashFile hashes a file as OPA does: JSON by what it says, in a canonical form,
// everything else by its bytes.
func hashFile(name string, content []byte) ([]byte, error) {
	h, err := opa.NewSignatureHasher(opa.SHA256)
	if err != nil {
		return nil, err
	}
	if !opa.IsStructuredDoc(name) {
		return h.HashFile(content)
	}
	var document any
	if err := util.Unmarshal(content, &document); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return h.HashFile(document)
}

// Signer signs bundles with a key in a token; *bccsp.Signer is one.
type Signer interface {
	SignBundle(ctx context.Context, claims bccsp.BundleClaims) (string, error)
}

// Sign checks that the files are a bundle, signs them and packs the archive. A
// signature that they have is replaced.
func Sign(ctx context.Context, s Signer, keyID, scope string, files Contents) ([]byte, error) {
	if _, err := Read(files); err != nil {
		return nil, err
	}
	claims := bccsp.BundleClaims{KeyID: keyID, Scope: scope}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name == signaturesFile {
			continue
		}
		sum, err := hashFile(name, files[name])
		if err != nil {
			return nil, fmt.Errorf("policy bundle: %w", err)
		}
		claims.Files = append(claims.Files, bccsp.BundleFile{Name: name, Hash: hex.EncodeToString(sum), Algorithm: hashAlgorithm})
	}
	token, err := s.SignBundle(ctx, claims)
	if err != nil {
		return nil, err
	}
	out := maps.Clone(files)
	if out[signaturesFile], err = json.Marshal(signatures{Signatures: []string{token}}); err != nil {
		return nil, err
	}
	return Pack(out)
}
