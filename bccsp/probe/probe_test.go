package probe_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
	"strongroom/bccsp/probe"
	profiles "strongroom/firmware-profiles"
)

// open opens a fresh SoftHSM token for the suite.
func open(t *testing.T) (*probe.Bench, pkcs11.Config) {
	t.Helper()
	cfg := bccsptest.Config(t)
	b, err := probe.Open(probe.Options{Module: cfg.Module, Label: cfg.TokenLabel, PIN: cfg.PIN})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, cfg
}

func softHSM(t *testing.T) probe.Expectations {
	t.Helper()
	p, err := profiles.Load("softhsm-2.6")
	if err != nil {
		t.Fatal(err)
	}
	return probe.Expectations{Profile: p.ID, Gaps: p.Gaps, MaxSessions: p.Sessions.Max}
}

func TestSoftHSMIsAsItsProfileSays(t *testing.T) {
	b, _ := open(t)
	expect := softHSM(t)
	r, signed, err := b.Probe(context.Background(), probe.Config{Expect: expect, Quick: true, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Results) != len(probe.Suite()) {
		t.Errorf("%d results of %d checks", len(r.Results), len(probe.Suite()))
	}
	for _, result := range r.Results {
		want := probe.Pass
		if expect.Gaps[result.Check] != "" {
			want = probe.Declared
		}
		if result.Status != want {
			t.Errorf("%s: %s, want %s: %s", result.Check, result.Status, want, result.Detail)
		}
	}
	if r.Sessions < 1 || len(r.Rates) != 7 || r.Rates[6].Sessions != 64 {
		t.Errorf("rates %v, recommended %d", r.Rates, r.Sessions)
	}
	for _, rate := range r.Rates {
		if rate.Sign <= 0 || rate.Verify <= 0 {
			t.Errorf("rate %+v", rate)
		}
	}
	checkSigned(t, r, signed)
}

func checkSigned(t *testing.T, r *probe.Report, signed *probe.Signed) {
	t.Helper()
	block, _ := pem.Decode([]byte(r.Key))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(signed.PAE)
	if !ecdsa.VerifyASN1(key.(*ecdsa.PublicKey), digest[:], signed.Signature) {
		t.Error("the report's signature does not verify")
	}
	body, err := base64.StdEncoding.DecodeString(signed.Envelope.Payload)
	if err != nil {
		t.Fatal(err)
	}
	var inside probe.Report
	if err := json.Unmarshal(body, &inside); err != nil || inside.Key != r.Key || len(inside.Results) != len(r.Results) {
		t.Errorf("the signed report is another: %v", err)
	}
	if !strings.HasSuffix(string(signed.PAE), string(body)) {
		t.Error("the signed bytes do not end with the report")
	}
}

func TestProfileThatPromisesTooLittleFails(t *testing.T) {
	b, _ := open(t)
	expect := softHSM(t)
	expect.Gaps = map[string]string{"gcm": "no GCM, it is said", "off-curve-point": "as it is"}
	results, err := b.Run(context.Background(), expect, true)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]probe.Status)
	for _, r := range results {
		got[r.Check] = r.Status
	}
	for check, want := range map[string]probe.Status{"gcm": probe.Fail, "off-curve-point": probe.Declared, "overlong-digest": probe.Fail, "key-wrap": probe.Pass} {
		if got[check] != want {
			t.Errorf("%s: %s, want %s", check, got[check], want)
		}
	}
	expect.Gaps = map[string]string{"teleport": "no"}
	if _, err := b.Run(context.Background(), expect, true); err == nil || !strings.Contains(err.Error(), "teleport") {
		t.Errorf("got %v", err)
	}
}

func TestReportIsSignedByTheTokensKey(t *testing.T) {
	cfg := bccsptest.Config(t)
	token, err := pkcs11.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	key := bccsptest.NewCA(t, token, "Org1MSP").Issue(t, "peer0", "peer")
	if err := token.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := probe.Open(probe.Options{Module: cfg.Module, Label: cfg.TokenLabel, PIN: cfg.PIN})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	r := &probe.Report{}
	signed, err := b.Sign(context.Background(), r, key.Label)
	if err != nil {
		t.Fatal(err)
	}
	checkSigned(t, r, signed)
	block, _ := pem.Decode(signed.PublicKey)
	if string(block.Bytes) != string(key.Signer.PublicKey().SPKI()) || r.KeyLabel != key.Label {
		t.Error("signed by another key")
	}
	if _, err := b.Sign(context.Background(), r, "no such key"); err == nil || !strings.Contains(err.Error(), "no such key") {
		t.Errorf("got %v", err)
	}
}

func TestLeavesNothingInTheToken(t *testing.T) {
	cfg := bccsptest.Config(t)
	b, err := probe.Open(probe.Options{Module: cfg.Module, Label: cfg.TokenLabel, PIN: cfg.PIN})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Probe(context.Background(), probe.Config{Quick: true, Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	keys, err := bccsptest.OpenWith(t, cfg).Keys(context.Background())
	if err != nil || len(keys) != 0 {
		t.Errorf("left %v, %v", keys, err)
	}
}

func TestDraftIsAProfile(t *testing.T) {
	b, _ := open(t)
	r, _, err := b.Probe(context.Background(), probe.Config{Quick: true, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	text, err := r.Draft()
	if err != nil {
		t.Fatal(err)
	}
	p, err := profiles.Parse(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if p.Gaps["off-curve-point"] == "" || p.Gaps["gcm"] != "" || p.PublicKeys.Import != profiles.Yes || p.AES.GCM.IV != "caller" || p.AES.Wrap.Mechanism != "CKM_AES_KEY_WRAP" {
		t.Errorf("got %+v", p)
	}
	if err := p.MayVerify(); !errors.Is(err, profiles.ErrRefused) {
		t.Errorf("a draft lets the device verify before a person has said where it does: %v", err)
	}
	results, err := b.Run(context.Background(), probe.Expectations{Profile: p.ID, Gaps: p.Gaps}, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, result := range results {
		if result.Status == probe.Fail {
			t.Errorf("%s fails under the draft: %s", result.Check, result.Detail)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	cfg := bccsptest.Config(t)
	for want, o := range map[string]probe.Options{
		"cannot be loaded":    {Module: "/nowhere.so", Label: cfg.TokenLabel, PIN: cfg.PIN},
		"0 tokens with label": {Module: cfg.Module, Label: "none", PIN: cfg.PIN},
		"pin: ":               {Module: cfg.Module, Label: cfg.TokenLabel, PIN: pkcs11.PINSource{File: "/nowhere"}},
	} {
		if _, err := probe.Open(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// broken is SoftHSM with a fault.
type broken struct {
	probe.Module
	sign    func([]byte, error) ([]byte, error)
	verify  func(error) error
	wrapOut func([]byte, error) ([]byte, error)
	value   func(uint) []byte // answers GetAttributeValue for one attribute, nil: does not
	logout  bool              // C_Logout does nothing
	lose    bool              // C_DestroyObject does nothing
	encrypt func([]byte, error) ([]byte, error)
	random  func([]byte, error) ([]byte, error)
}

func (m broken) Sign(s p11.SessionHandle, d []byte) ([]byte, error) {
	sig, err := m.Module.Sign(s, d)
	if m.sign != nil {
		return m.sign(sig, err)
	}
	return sig, err
}

func (m broken) Verify(s p11.SessionHandle, d, sig []byte) error {
	err := m.Module.Verify(s, d, sig)
	if m.verify != nil {
		return m.verify(err)
	}
	return err
}

func (m broken) WrapKey(s p11.SessionHandle, mech []*p11.Mechanism, w, k p11.ObjectHandle) ([]byte, error) {
	out, err := m.Module.WrapKey(s, mech, w, k)
	if m.wrapOut != nil {
		return m.wrapOut(out, err)
	}
	return out, err
}

func (m broken) GetAttributeValue(s p11.SessionHandle, o p11.ObjectHandle, a []*p11.Attribute) ([]*p11.Attribute, error) {
	if m.value != nil && len(a) == 1 {
		if v := m.value(a[0].Type); v != nil {
			return []*p11.Attribute{{Type: a[0].Type, Value: v}}, nil
		}
	}
	return m.Module.GetAttributeValue(s, o, a)
}

func (m broken) Logout(s p11.SessionHandle) error {
	if m.logout {
		return nil
	}
	return m.Module.Logout(s)
}

func (m broken) DestroyObject(s p11.SessionHandle, o p11.ObjectHandle) error {
	if m.lose {
		return nil
	}
	return m.Module.DestroyObject(s, o)
}

func (m broken) Encrypt(s p11.SessionHandle, d []byte) ([]byte, error) {
	out, err := m.Module.Encrypt(s, d)
	if m.encrypt != nil {
		return m.encrypt(out, err)
	}
	return out, err
}

func (m broken) GenerateRandom(s p11.SessionHandle, n int) ([]byte, error) {
	out, err := m.Module.GenerateRandom(s, n)
	if m.random != nil {
		return m.random(out, err)
	}
	return out, err
}

// TestFaultsAreSeen breaks the module in the ways that the checks are there for.
func TestFaultsAreSeen(t *testing.T) {
	spoil := func(out []byte, err error) ([]byte, error) {
		if len(out) > 0 {
			out[0] ^= 1
		}
		return out, err
	}
	for _, tt := range []struct {
		name   string
		fault  broken
		failed string // checks that must fail
	}{
		{"accepts everything", broken{verify: func(error) error { return nil }}, "own-signature import known-answer-p256 known-answer-p384 flipped-bits"},
		{"refuses everything", broken{verify: func(error) error { return p11.Error(p11.CKR_SIGNATURE_INVALID) }}, "own-signature import known-answer-p256 parallel"},
		{"signs garbage", broken{sign: spoil}, "own-signature import parallel shared-handles"},
		{"signs with one r", broken{sign: func(sig []byte, err error) ([]byte, error) {
			for i := range sig[:len(sig)/2] {
				sig[i] = 1
			}
			return sig, err
		}}, "sign-p256 sign-p384"},
		{"signs in DER", broken{sign: func(sig []byte, err error) ([]byte, error) { return append(sig, 0), err }}, "sign-p256"},
		{"wraps wrongly", broken{wrapOut: spoil}, "key-wrap"},
		{"wraps what must not leave", broken{wrapOut: func([]byte, error) ([]byte, error) { return make([]byte, 40), nil }}, "wrap-refused"},
		{"encrypts wrongly", broken{encrypt: spoil}, "gcm gcm-tamper"},
		{"shows private values", broken{value: func(kind uint) []byte {
			if kind == p11.CKA_VALUE {
				return []byte{1}
			}
			return nil
		}}, "hidden"},
		{"extractable", broken{value: func(kind uint) []byte {
			if kind == p11.CKA_EXTRACTABLE {
				return []byte{1}
			}
			return nil
		}}, "hidden attributes"},
		{"no logout", broken{logout: true}, "logout"},
		{"destroys nothing", broken{lose: true}, "leaks"},
		{"no randomness", broken{random: func(out []byte, err error) ([]byte, error) { clear(out); return out, err }}, "random"},
		{"device gone", broken{encrypt: func([]byte, error) ([]byte, error) { return nil, p11.Error(p11.CKR_DEVICE_REMOVED) }}, "gcm gcm-empty-iv"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, _ := open(t)
			b.Break(func(m probe.Module) probe.Module {
				tt.fault.Module = m
				return tt.fault
			})
			results, err := b.Run(context.Background(), softHSM(t), true)
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[string]probe.Result)
			for _, r := range results {
				got[r.Check] = r
			}
			for _, check := range strings.Fields(tt.failed) {
				if got[check].Status != probe.Fail {
					t.Errorf("%s: %+v, want a failure", check, got[check])
				}
			}
		})
	}
}
