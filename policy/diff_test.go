package policy

import (
	"testing"
)

// TestDiffRules finds what a rule says, wherever it stands.
func TestDiffRules(t *testing.T) {
	before := map[string][]byte{"a.rego": []byte("package a\n\nallow if input.x == 1\n\ndeny contains \"x\" if input.y\n")}
	after := map[string][]byte{
		"b.rego":      []byte("package a\n\n# moved\nallow if {\n\tinput.x == 1\n}\n"),
		"c.rego":      []byte("package a\n\ndeny contains \"x\" if input.z\n"),
		"c_test.rego": []byte("package a_test\n\ntest_x if true\n"),
	}
	removed, added, err := DiffRules(before, after)
	if err != nil {
		t.Fatal(err)
	}
	if len(removed) != 1 || removed[0].Place != "a.rego:5" || removed[0].Rule != "a.deny" || len(added) != 1 || added[0].Place != "c.rego:3" {
		t.Errorf("removed %+v, added %+v", removed, added)
	}
	if removed, added, err = DiffRules(before, before); err != nil || len(removed)+len(added) > 0 {
		t.Errorf("the same: %+v %+v %v", removed, added, err)
	}
}
