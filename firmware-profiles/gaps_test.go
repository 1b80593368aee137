package profiles

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestEachGapBars gives a device that passes everything one gap after the other, and sees
// which uses are refused, and that the refusal names the gap and its reason.
func TestEachGapBars(t *testing.T) {
	want := map[string]string{ // what stays allowed, of sign, verify and wrap
		"random": "v", "sign-p256": "svw", "sign-p384": "svw", "own-signature": "sw", "import": "sw",
		"known-answer-p256": "sw", "known-answer-p384": "sw", "flipped-bits": "sw", "twin": "sw", "leaks": "sw",
		"key-wrap": "sv", "key-wrap-tamper": "sv", "wrap-refused": "sv", "hidden": "v", "shared-handles": "", "parallel": "vw",
		"overlong-digest": "svw", "off-curve-point": "svw", "raw-point": "svw", "gcm": "svw", "gcm-tamper": "svw", "gcm-empty-iv": "svw",
		"attributes": "svw", "session-limit": "svw", "logout": "svw",
	}
	if got, wanted := slices.Sorted(maps.Keys(bars)), slices.Sorted(maps.Keys(want)); !slices.Equal(got, wanted) {
		t.Errorf("the table has %v, the test %v", got, wanted)
	}
	for gap, allowed := range want {
		p := good(t)
		p.Gaps = map[string]string{gap: "its reason"}
		got := ""
		for use, err := range map[string]error{"s": p.MaySign(), "v": p.MayVerify(), "w": p.MayWrap()} {
			if err == nil {
				got += use
				continue
			}
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "its reason") {
				t.Errorf("%s: got %v, want a refusal with its reason", gap, err)
			}
		}
		if s := []byte(got); string(slices.Sorted(slices.Values(s))) != allowed {
			t.Errorf("%s: allowed is %q, want %q", gap, got, allowed)
		}
	}
	p := good(t)
	p.Gaps = map[string]string{"sign-p256": "no EC", "sign-p384": "no EC"}
	if err := p.MaySign(); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no EC") {
		t.Errorf("a device without ECDSA may sign: %v", err)
	}
}

// TestEachLocationBars does the same for where a device verifies, and for its session
// limit and its wrapping mechanism.
func TestEachFieldBars(t *testing.T) {
	for _, tt := range []struct {
		change func(*Profile)
		ask    func(*Profile) error
		want   string // "": allowed
	}{
		{func(p *Profile) { p.Verify.Location = "host-library" }, (*Profile).MayVerify, "on the host"},
		{func(p *Profile) { p.Verify.Location = "none" }, (*Profile).MayVerify, "does not verify"},
		{func(p *Profile) { p.Verify.Location = "unknown" }, (*Profile).MayVerify, "is not known"},
		{func(p *Profile) { p.Verify.Location, p.Token = "host-library", "software" }, (*Profile).MayVerify, ""},
		{func(p *Profile) { p.PublicKeys.Import = No }, (*Profile).MayVerify, "takes no public keys"},
		{func(p *Profile) { p.PublicKeys.Import = "" }, (*Profile).MayVerify, "is not known"},
		{func(p *Profile) { p.AES.Wrap.Mechanism = "CKM_AES_KEY_WRAP_KWP" }, (*Profile).MayWrap, "CKM_AES_KEY_WRAP_KWP"},
		{func(p *Profile) { p.AES.Wrap.Mechanism = "none" }, (*Profile).MayWrap, "none"},
		{func(p *Profile) { p.AES.GCM.IV = "device-appended" }, (*Profile).MayWrap, ""}, // no encryption of the token is used
		{func(p *Profile) { p.Sessions.Max = 8 }, func(p *Profile) error { return p.MaySessions(9) }, "takes 8"},
		{func(p *Profile) { p.Sessions.Max = 9 }, func(p *Profile) error { return p.MaySessions(9) }, ""},
		{func(p *Profile) { p.Sessions.Max = -1 }, func(p *Profile) error { return p.MaySessions(900) }, ""},
	} {
		p := good(t)
		tt.change(p)
		switch err := tt.ask(p); {
		case tt.want == "" && err != nil:
			t.Errorf("got %v, want it allowed", err)
		case tt.want != "" && (!errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("got %v, want a refusal with %q", err, tt.want)
		}
	}
}

// good is the profile of a device that passes everything.
func good(t *testing.T) *Profile {
	t.Helper()
	p, err := Parse([]byte("id: x\nvendor: v\nmodel: m\nfirmware: '1'\ntoken: hardware\nmodules: [/m.so]\npublicKeys: {import: yes}\n" +
		"verify: {location: device}\naes: {gcm: {iv: caller}, wrap: {mechanism: CKM_AES_KEY_WRAP}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{p.MaySign(), p.MayVerify(), p.MayWrap()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}
