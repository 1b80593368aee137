package softhsmtests

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	composition "strongroom/appliance"
	"strongroom/appliance/config"
	"strongroom/bccsp"
	"strongroom/bccsp/pkcs11"
	"strongroom/bccsp/probe"
	profiles "strongroom/firmware-profiles"
)

// Who closes a gap that a profile declares, by check of the suite: the profile's rules,
// which refuse the device for what it would be used for, or a check of the driver's, which
// is then tried on the device itself.
var closes = map[string]func(t *testing.T, d device){
	"sign-p256": refusedAltogether, "sign-p384": refusedAltogether, "hidden": refusedAltogether,
	"shared-handles": refusedAltogether, "parallel": refusedAltogether,
	"own-signature": refusedToVerify, "import": refusedToVerify, "known-answer-p256": refusedToVerify, "known-answer-p384": refusedToVerify,
	"flipped-bits": refusedToVerify, "twin": refusedToVerify, "leaks": refusedToVerify,
	"key-wrap": refusedToWrap, "key-wrap-tamper": refusedToWrap, "wrap-refused": refusedToWrap,
	"overlong-digest": closesOverlong, "off-curve-point": closesOffCurve, "raw-point": closesRawPoint,
	"gcm": usesNoEncryption, "gcm-tamper": usesNoEncryption, "gcm-empty-iv": usesNoEncryption,
	"attributes": closesAttributes, "logout": neverLogsOut,
}

// closesGaps sees that each gap of a device's profile is closed.
func closesGaps(t *testing.T, d device) {
	t.Helper()
	p, err := profiles.Load(d.profile)
	if err != nil {
		t.Fatal(err)
	}
	for gap := range p.Gaps {
		f := closes[gap]
		if f == nil {
			t.Errorf("gap %s of %s is closed by nobody", gap, d.profile)
			continue
		}
		t.Run("closed/"+gap, func(t *testing.T) { f(t, d) })
	}
	// What every profile can say: where it verifies, and how many sessions it takes.
	d.refusedWhen(t, "verify: {location: host-library}", func(p string) string {
		return strings.Replace(p, "token: software", "token: hardware", 1)
	})
	for _, location := range []string{"none", "unknown"} {
		d.refusedWhen(t, "verify.location is "+location, func(p string) string {
			for _, was := range []string{"host-library", "none"} {
				p = strings.Replace(p, "location: "+was, "location: "+location, 1)
			}
			return p
		})
	}
}

// refusedWhen changes the profile's text, and wants the device to be refused.
func (d device) refusedWhen(t *testing.T, what string, change func(string) string) {
	t.Helper()
	name := d.profile
	if filepath.Ext(name) != ".yaml" {
		name = filepath.Join("..", "firmware-profiles", name+".yaml")
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	d.profile = privateFile(t, t.TempDir(), "changed.yaml", change(string(text)))
	if _, err := composition.OpenToken(t.Context(), d.config(), nil); !errors.Is(err, profiles.ErrRefused) {
		t.Errorf("%s: got %v, want a refusal", what, err)
	}
}

// TestEachCheckHasAnAnswer: what the suite may find missing, profiles and tests know.
func TestEachCheckHasAnAnswer(t *testing.T) {
	for _, c := range probe.Suite() {
		if !profiles.GapKnown(c.Name) {
			t.Errorf("profiles do not know the check %s", c.Name)
		}
		if closes[c.Name] == nil && c.Name != "random" && c.Name != "session-limit" { // no device here fails these
			t.Errorf("no test closes the gap %s", c.Name)
		}
	}
}

// refusedAltogether: such a device may neither sign nor verify, beside another token either.
func refusedAltogether(t *testing.T, d device) {
	d.refused(t, "", "")
	_, err := composition.OpenTokens(t.Context(), d.config(), []config.Token{softHSM(t).config()}, nil, nil)
	if !errors.Is(err, profiles.ErrRefused) {
		t.Errorf("beside another token: got %v, want a refusal", err)
	}
}

func refusedToVerify(t *testing.T, d device) { d.refused(t, "", "") }
func refusedToWrap(t *testing.T, d device)   { d.refused(t, "kek", "") }

// verifies opens the device as a peer does, with a foreign key and what it signed.
func (d device) verifies(t *testing.T) (*pkcs11.Token, *ecdsa.PrivateKey, *bccsp.PublicKey) {
	t.Helper()
	token, err := composition.OpenToken(t.Context(), d.config(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := bccsp.NewPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return token, key, pub
}

func mustSign(t *testing.T, key *ecdsa.PrivateKey, digest []byte) []byte {
	t.Helper()
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// closesOverlong: what goes on after a digest is refused before the device is asked, and a
// digest that may be longer than the order is cut by Strongroom, so that the device sees
// what it cannot misread.
func closesOverlong(t *testing.T, d device) {
	if mayNotVerify(t, d) {
		return
	}
	ctx := context.Background()
	token, key, pub := d.verifies(t)
	digest := sha256.Sum256([]byte("m"))
	sig := mustSign(t, key, digest[:])
	for _, n := range []int{65, 97} {
		long := append(bytes.Clone(digest[:]), make([]byte, n-len(digest))...)
		if err := token.VerifyX509(ctx, pub, long, sig); err == nil || errors.Is(err, bccsp.ErrBadSignature) {
			t.Errorf("digest of %d bytes: got %v, want an error that is no verdict", n, err)
		}
	}
	sha := sha512.Sum512([]byte("m"))
	if err := token.VerifyX509(ctx, pub, sha[:], mustSign(t, key, sha[:])); err != nil {
		t.Errorf("SHA-512 on P-256: %v", err)
	}
	sha[0] ^= 1
	if err := token.VerifyX509(ctx, pub, sha[:], sig); !errors.Is(err, bccsp.ErrBadSignature) {
		t.Errorf("another SHA-512: got %v, want ErrBadSignature", err)
	}
}

// mayNotVerify tells that the profile bars verification, of which the gap is then a part.
func mayNotVerify(t *testing.T, d device) bool {
	t.Helper()
	p, err := profiles.Load(d.profile)
	if err != nil {
		t.Fatal(err)
	}
	if p.MayVerify() == nil {
		return false
	}
	d.refused(t, "", "")
	return true
}

// closesOffCurve: no key that is not on its curve comes as far as the device.
func closesOffCurve(t *testing.T, d device) {
	if mayNotVerify(t, d) {
		return
	}
	_, _, pub := d.verifies(t)
	spki := bytes.Clone(pub.SPKI()) // ends with the point's y
	spki[len(spki)-1] ^= 1
	key, err := x509.ParsePKIXPublicKey(spki)
	if err == nil {
		_, err = bccsp.NewPublicKey(key)
	}
	if err == nil {
		t.Error("taken")
	}
}

// closesRawPoint: foreign keys are imported so that the device judges by them rightly.
func closesRawPoint(t *testing.T, d device) {
	if mayNotVerify(t, d) {
		return
	}
	ctx := context.Background()
	token, key, pub := d.verifies(t)
	digest := sha256.Sum256([]byte("m"))
	sig := mustSign(t, key, digest[:])
	if err := token.VerifyX509(ctx, pub, digest[:], sig); err != nil {
		t.Error(err)
	}
	digest[0] ^= 1
	if err := token.VerifyX509(ctx, pub, digest[:], sig); !errors.Is(err, bccsp.ErrBadSignature) {
		t.Errorf("got %v, want ErrBadSignature", err)
	}
}

// driverLacks fails when a file of the driver's source, but those named, has any of the
// words.
func driverLacks(t *testing.T, but []string, words ...string) {
	t.Helper()
	files, err := filepath.Glob("../bccsp/pkcs11/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || slices.Contains(but, filepath.Base(file)) {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range words {
			if bytes.Contains(text, []byte(w)) {
				t.Errorf("%s has %s", file, w)
			}
		}
	}
}

// usesNoEncryption: no gap of the device's encryption matters, who makes the IV either.
func usesNoEncryption(t *testing.T, _ device) {
	driverLacks(t, nil, "EncryptInit(", "DecryptInit(", "CKM_AES_GCM", "GCMParams")
}

// neverLogsOut: what a key does after C_Logout does not matter to a driver that never
// calls it while it serves. (The commands that set PINs log out.)
func neverLogsOut(t *testing.T, _ device) {
	driverLacks(t, []string{"inittoken.go", "changepin.go"}, ".Logout(")
}

// closesAttributes: a key that was made extractable is not taken into use.
func closesAttributes(t *testing.T, d device) {
	p, err := profiles.Load(d.profile)
	if err != nil {
		t.Fatal(err)
	}
	if p.MaySign() != nil {
		d.refused(t, "", "")
		return
	}
	ctx := t.Context()
	second := softHSM(t)
	open := func() *composition.Tokens {
		t.Helper()
		own := d.config()
		own.Sessions = 2
		tokens, err := composition.OpenTokens(ctx, own, []config.Token{second.config()}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return tokens
	}
	tokens := open()
	defer func() {
		if err := tokens.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := tokens.Own.GenerateKey(ctx, "loosened", elliptic.P256()); err != nil {
		t.Fatal(err)
	}
	module := p11.New(d.module) // the library that is open already
	if module == nil {
		t.Fatal("the module does not load")
	}
	session, err := module.OpenSession(tokens.Own.Info().Slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	if err := module.FindObjectsInit(session, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_LABEL, "loosened")}); err != nil {
		t.Fatal(err)
	}
	found, _, err := module.FindObjects(session, 2)
	if err != nil || len(found) != 1 {
		t.Fatalf("%d keys, %v", len(found), err)
	}
	if err := module.FindObjectsFinal(session); err != nil {
		t.Fatal(err)
	}
	if err := module.SetAttributeValue(session, found[0], []*p11.Attribute{p11.NewAttribute(p11.CKA_EXTRACTABLE, true)}); err != nil {
		t.Fatal(err)
	}
	if err := module.CloseSession(session); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Signer(ctx, "loosened"); err == nil || !strings.Contains(err.Error(), "can leave the token") {
		t.Errorf("got %v, want the key to be refused", err)
	}
}
