package examples_test

import (
	"bytes"
	"io/fs"
	"path/filepath"
	"testing"

	"strongroom/acl"
	"strongroom/acl/bundles"
	examples "strongroom/examples/policy"
	"strongroom/policy"
	"strongroom/policy/bundle"
)

// TestStarter takes the examples as one bundle, as `policy init` hands them out: every
// layer and the guard are there, in form, and their tests reach nearly all of them.
func TestStarter(t *testing.T) {
	manifest, err := bundle.Manifest(1)
	if err != nil {
		t.Fatal(err)
	}
	files := bundle.Contents{".manifest": manifest}
	err = fs.WalkDir(examples.Files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files[name], err = fs.ReadFile(examples.Files, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Read(files)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := bundles.Compile(t.Context(), b, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(rules.Layers) != len(acl.Layers()) || rules.Endorse == nil || len(rules.Tests) < 25 {
		t.Errorf("%d layers, %d tests", len(rules.Layers), len(rules.Tests))
	}
	_, coverage, err := policy.Coverage(t.Context(), b.Rego, b.Data)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range coverage {
		if c.Percent < 90 {
			t.Errorf("tests reach %.0f %% of %s: not lines %v", c.Percent, c.File, c.NotCovered)
		}
	}
	for name, source := range b.Rego {
		if formatted, err := policy.Format(filepath.Base(name), source); err != nil || !bytes.Equal(formatted, source) {
			t.Errorf("%s is not in the usual form: %v", name, err)
		}
	}
}
