package profiles_test

import (
	"strings"
	"testing"

	profiles "strongroom/firmware-profiles"
)

func TestEveryProfileLoads(t *testing.T) {
	ids, err := profiles.IDs()
	if err != nil || len(ids) == 0 {
		t.Fatalf("no profiles: %v", err)
	}
	for _, id := range ids {
		if _, err := profiles.Load(id); err != nil {
			t.Error(err)
		}
	}
}

func TestUnknownProfileNamesTheKnown(t *testing.T) {
	if _, err := profiles.Load("enigma"); err == nil || !strings.Contains(err.Error(), "softhsm-2.6") {
		t.Fatalf("got %v", err)
	}
}

func TestFindModule(t *testing.T) {
	p, err := profiles.Load("softhsm-2.6")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := p.FindModule(); err != nil || !strings.Contains(m, "softhsm") {
		t.Fatalf("SoftHSM must be installed for the tests: %q, %v", m, err)
	}
	p.Modules = []string{"/nowhere/lib.so"}
	if _, err := p.FindModule(); err == nil || !strings.Contains(err.Error(), "/nowhere/lib.so") {
		t.Fatalf("got %v", err)
	}
}
