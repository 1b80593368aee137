package bccsp_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The rules of the crypto boundary, checked over the module's source. A path below is
// a folder of the module; "_test.go" files are free of them all.

// softwareAllowed are the folders that may sign and verify in software: the auditor's
// verifier, which has no token, and the load tool, which is a client of other people's
// peers and signs with a user's key from a file as Fabric's own clients do. Neither is
// part of a node, and the lattice keeps both from being imported.
var softwareAllowed = []string{"cmd/strongroom-audit", "cmd/strongroom-load"}

// forbiddenFunctions sign or verify in software, by import path.
var forbiddenFunctions = map[string][]string{
	"crypto/ecdsa":   {"Sign", "SignASN1", "Verify", "VerifyASN1"},
	"crypto/ed25519": {"Sign", "Verify", "VerifyWithOptions"},
	"crypto/rsa":     {"SignPKCS1v15", "SignPSS", "VerifyPKCS1v15", "VerifyPSS"},
	"crypto/dsa":     {"Sign", "Verify"},
	"crypto/x509":    {"VerifyOptions"},

	"golang.org/x/crypto/ed25519": {"Sign", "Verify", "VerifyWithOptions"},
}

// forbiddenMethods verify in software: of certificates, requests and revocation lists.
var forbiddenMethods = map[string]bool{"CheckSignature": true, "CheckSignatureFrom": true, "CheckCRLSignature": true}

// importers are the only folders that may import a package.
var importers = map[string][]string{
	"github.com/miekg/pkcs11":         {"bccsp/pkcs11", "bccsp/probe"}, // the probe asks what the driver never would
	"github.com/ThalesGroup/crypto11": {"bccsp/provision"},
	"strongroom/bccsp/provision":      {"cmd/strongroom"},
	"C":                               {"bccsp/pkcs11"},
}

// importFix says what to do instead.
var importFix = map[string]string{
	"github.com/miekg/pkcs11":         "use bccsp.Verifier, bccsp.Signer or bccsp.KeyWrapper, which bccsp/pkcs11 implements",
	"github.com/ThalesGroup/crypto11": "it cannot share a process with the peer's driver: add what is missing to bccsp/provision",
	"strongroom/bccsp/provision":      "it cannot share a process with the peer's driver: call it from a command of cmd/strongroom",
	"C":                               "cgo is for bccsp/pkcs11 alone",
}

const softwareFix = "signatures are made and judged in the token: use bccsp.Verifier or bccsp.Signer"

func TestCryptoBoundary(t *testing.T) {
	root := moduleRoot(t)
	files := 0
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if file != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "node_modules" || name == "vendor") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		files++
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		source, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, complaint := range boundaryFaults(filepath.ToSlash(rel), source) {
			t.Error(complaint)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 10 {
		t.Errorf("only %d files looked at: is %s the module?", files, root)
	}
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = parent
	}
}

// within tells whether a file of the module is in one of the folders or below.
func within(file string, folders []string) bool {
	for _, folder := range folders {
		if strings.HasPrefix(file, folder+"/") {
			return true
		}
	}
	return false
}

// boundaryFaults lists what breaks the rules in a file: "file:line: what: what to do".
func boundaryFaults(file string, source []byte) []string {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, source, parser.SkipObjectResolution|parser.ParseComments)
	if err != nil {
		return []string{fmt.Sprintf("%v: the file does not parse", err)} // begins with file and line
	}
	constraint := ""
	for _, group := range parsed.Comments {
		for _, c := range group.List {
			if strings.HasPrefix(c.Text, "//go:build ") {
				constraint = strings.TrimPrefix(c.Text, "//go:build ")
			}
		}
	}
	if constraint == "deps" { // only keeps go.mod complete, is built nowhere
		return nil
	}
	var faults []string
	complain := func(at token.Pos, what, fix string) {
		faults = append(faults, fmt.Sprintf("%s:%d: %s: %s", file, set.Position(at).Line, what, fix))
	}
	names := make(map[string]string) // import path by the name that the file uses
	for _, spec := range parsed.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		if allowed, ruled := importers[imported]; ruled && !within(file, allowed) {
			complain(spec.Pos(), "imports "+imported, importFix[imported])
		}
		name := path.Base(imported)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		if name == "." && forbiddenFunctions[imported] != nil {
			complain(spec.Pos(), "imports "+imported+" without a name", "name the import, so that its uses can be seen")
		}
		names[name] = imported
	}
	if within(file, softwareAllowed) {
		return faults
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			if pkg, ok := n.X.(*ast.Ident); ok {
				for _, f := range forbiddenFunctions[names[pkg.Name]] {
					if n.Sel.Name == f {
						complain(n.Pos(), "uses "+names[pkg.Name]+"."+f, softwareFix)
					}
				}
			}
			if forbiddenMethods[n.Sel.Name] {
				complain(n.Pos(), "uses "+n.Sel.Name, softwareFix)
			}
		case *ast.CallExpr:
			sel, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "Verify" || len(n.Args) != 1 {
				return true
			}
			for _, imported := range names {
				if imported == "crypto/x509" { // (*x509.Certificate).Verify has one argument
					complain(sel.Pos(), "calls Verify as crypto/x509 has it", softwareFix)
					break
				}
			}
		}
		return true
	})
	return faults
}

func TestBoundaryFaultsAreSeen(t *testing.T) {
	for _, tt := range []struct{ file, source, want string }{
		{"msp/a.go", `import "crypto/ecdsa"; var x = ecdsa.VerifyASN1`, "uses crypto/ecdsa.VerifyASN1"},
		{"msp/a.go", `import e "crypto/ecdsa"; func f() { e.Sign(nil, nil, nil) }`, "uses crypto/ecdsa.Sign"},
		{"msp/a.go", `import . "crypto/rsa"`, "without a name"},
		{"msp/a.go", `import "crypto/ed25519"; func f() { ed25519.Verify(nil, nil, nil) }`, "uses crypto/ed25519.Verify"},
		{"msp/a.go", `import "crypto/rsa"; func f() { rsa.SignPSS(nil, nil, 0, nil, nil) }`, "uses crypto/rsa.SignPSS"},
		{"msp/a.go", `func f(c C) { c.CheckSignatureFrom(c) }`, "uses CheckSignatureFrom"},
		{"msp/a.go", `import "crypto/x509"; func f(c *x509.Certificate, o O) { c.Verify(o) }`, "calls Verify"},
		{"msp/a.go", `import x "crypto/x509"; var o x.VerifyOptions`, "uses crypto/x509.VerifyOptions"},
		{"msp/a.go", `import "github.com/miekg/pkcs11"`, "imports github.com/miekg/pkcs11"},
		{"bccsp/pkcs11x/a.go", `import "github.com/miekg/pkcs11"`, "imports github.com/miekg/pkcs11"},
		{"appliance/a.go", `import "strongroom/bccsp/provision"`, "imports strongroom/bccsp/provision"},
		{"cmd/strongroom-audit/a.go", `import "github.com/ThalesGroup/crypto11"`, "imports github.com/ThalesGroup/crypto11"},
		{"ledger/a.go", `import "C"`, "imports C"},
		{"ledger/a.go", `func {`, "the file does not parse"},
		{"cmd/strongroom-audit/a.go", `import "crypto/ecdsa"; var x = ecdsa.VerifyASN1`, ""},
		{"cmd/strongroom-load/a.go", `import "crypto/ecdsa"; var x = ecdsa.SignASN1`, ""},
		{"cmd/strongroom-load/a.go", `import "github.com/miekg/pkcs11"`, "imports github.com/miekg/pkcs11"},
		{"cmd/strongroom/a.go", `import "crypto/ecdsa"; var x = ecdsa.SignASN1`, "uses crypto/ecdsa.SignASN1"},
		{"cmd/strongroom/a.go", `import "strongroom/bccsp/provision"`, ""},
		{"bccsp/pkcs11/a.go", `import "github.com/miekg/pkcs11"`, ""},
		{"msp/a.go", `import "crypto/x509"; func f(v V) { v.Verify(ctx, key, digest, sig); x509.ParseCertificate(nil) }`, ""},
		{"msp/a.go", `import "crypto/ecdsa"; var x ecdsa.PublicKey; func f(ecdsa2 T) { ecdsa2.Sign() }`, ""},
	} {
		got := strings.Join(boundaryFaults(tt.file, []byte("package p; "+tt.source)), "\n")
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s: got %q, want %q", tt.file, tt.source, got, tt.want)
		}
		if got != "" && !strings.HasPrefix(got, tt.file+":1") {
			t.Errorf("%q does not name file and line", got)
		}
	}
}
