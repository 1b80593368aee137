package policy

import (
	"strings"
	"testing"
)

func TestFormat(t *testing.T) {
	got, err := Format("a.rego", []byte("package a\nx:=1\n"))
	if err != nil || string(got) != "package a\n\nx := 1\n" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := Format("a.rego", []byte("package a\n\nx :=\n")); err == nil || !strings.Contains(err.Error(), "a.rego:4") {
		t.Errorf("error = %v", err)
	}
}

func TestCoverage(t *testing.T) {
	files := map[string][]byte{
		"a.rego":      []byte("package a\n\nx := 1 if input.a\n\ny := 2 if {\n\tinput.b\n}\n"),
		"a_test.rego": []byte("package a_test\n\nimport data.a\n\ntest_x if a.x == 1 with input as {\"a\": true}\n\ntest_wrong if a.x == 2 with input as {\"a\": true}\n"),
	}
	results, coverage, err := Coverage(t.Context(), files, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 2 || results[0].Passed || !results[1].Passed {
		t.Errorf("results = %+v", results)
	}
	if len(coverage) != 1 || coverage[0].File != "a.rego" || coverage[0].Percent <= 0 || coverage[0].Percent >= 100 || len(coverage[0].NotCovered) == 0 {
		t.Errorf("coverage = %+v", coverage)
	}
}

// TestSetNeedsOnlyItsOwn: a program is compiled with what its package refers to, under
// its own schema, and not with another's.
func TestSetNeedsOnlyItsOwn(t *testing.T) {
	schema := func(field string) []byte {
		return []byte(`{"type":"object","additionalProperties":false,"properties":{"` + field + `":{"type":"string"}}}`)
	}
	configs := []ProgramConfig{{Package: "strongroom.one", Schema: schema("one")}, {Package: "strongroom.two", Schema: schema("two")}, {Package: "strongroom.three"}}
	files := map[string][]byte{
		"one.rego":    []byte("package strongroom.one\n\nimport data.lib.names\n\ndefault allow := false\n\nallow if input.one in names.all\n"),
		"two.rego":    []byte("package strongroom.two\n\ndefault allow := false\n\nallow if data.known[input.two]\n"),
		"names.rego":  []byte("package lib.names\n\nimport data.lib.more\n\nall := more.list\n"),
		"more.rego":   []byte("package lib.more\n\nlist := {\"a\"}\n"),
		"x_test.rego": []byte("package x_test\n\ntest_both if {\n\tdata.strongroom.one.allow with input.one as \"a\"\n\tdata.strongroom.two.allow with input.two as \"b\"\n}\n"),
	}
	data := map[string]any{"known": map[string]any{"b": true}}
	programs, tests, err := ParseSet(t.Context(), configs, files, data)
	if err != nil {
		t.Fatal(err)
	}
	if len(programs) != 2 || len(tests) != 1 || !tests[0].Passed {
		t.Fatalf("programs %v, tests %+v", programs, tests)
	}
	for pkg, input := range map[string]map[string]any{"strongroom.one": {"one": "a"}, "strongroom.two": {"two": "b"}} {
		if allowed, reasons, err := programs[pkg].Decide(t.Context(), input); err != nil || !allowed {
			t.Errorf("%s: %v %v %v", pkg, allowed, reasons, err)
		}
		if allowed, _, err := programs[pkg].Decide(t.Context(), map[string]any{"one": "z", "two": "z"}); err != nil || allowed {
			t.Errorf("%s allows z: %v", pkg, err)
		}
	}
	before := programs["strongroom.two"].Digest()
	programs, _, err = ParseSet(t.Context(), configs, files, map[string]any{"known": map[string]any{"b": true, "c": true}})
	if err != nil {
		t.Fatal(err)
	}
	if programs["strongroom.two"].Digest() == before {
		t.Error("other data, the same digest")
	}
}
