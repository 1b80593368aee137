// Package strongroom_test holds the module's architecture: which package may import
// which.
package strongroom_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"strings"
	"testing"
)

// lattice says for each folder what it may import of this module; a folder stands
// for itself and what is below it, the longest match wins. Everything may import
// wire and its messages.
const lattice = `
wire                   -
bccsp                  wire
bccsp/provision        bccsp
msp                    bccsp
policy                 msp bccsp
acl                    policy msp bccsp channel/configtx
channel/configtx       policy msp bccsp
channel/lifecycle      -
ledger/rwset           -
ledger/compress        -
ledger/disk            -
ledger/seal            bccsp ledger/disk
ledger/translog        -
ledger/provenance      bccsp ledger/translog
ledger/evidence        -
ledger/selector        -
ledger                 ledger bccsp
chaincode              -
chaincode/ccpackage    ledger/selector
chaincode/chaincodetest chaincode ledger/selector
ordering               ordering channel/configtx policy msp bccsp
channel                channel ledger acl policy msp bccsp
appliance/version      -
appliance/config       -
appliance/operations   appliance/version
appliance/rpcerr       acl policy msp bccsp ledger chaincode ordering channel
appliance              appliance firmware-profiles channel ordering chaincode ledger acl policy msp bccsp
firmware-profiles      -
softhsm-tests/faulty   -
examples               chaincode/shim chaincode/chaincodetest policy acl
cmd/strongroom/devnet  firmware-profiles
cmd/strongroom-audit   acl appliance/version ledger/evidence ledger channel policy msp bccsp
cmd/documented         -
cmd/strongroom-load    -
cmd/strongroom         ledger/auditlog appliance bccsp chaincode/ccpackage channel/configtx ledger ledger/evidence ledger/translog cmd/strongroom/devnet firmware-profiles acl policy examples/policy
`

// onlyHere are packages that nothing but the named folders may import.
var onlyHere = map[string][]string{
	"strongroom/bccsp/pkcs11":    {"bccsp", "appliance", "cmd/strongroom"},
	"strongroom/bccsp/provision": {"cmd/strongroom"},
}

func TestLattice(t *testing.T) {
	rules := map[string][]string{}
	for line := range strings.Lines(strings.TrimSpace(lattice)) {
		fields := strings.Fields(line)
		rules[fields[0]] = fields[1:]
	}
	for _, p := range packages(t) {
		folder := strings.TrimPrefix(p.ImportPath, "strongroom/")
		if strings.HasPrefix(folder, "wire/") {
			continue
		}
		rule, ok := longest(rules, folder)
		if !ok {
			t.Errorf("%s has no line in the lattice: give it one", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			target, ours := strings.CutPrefix(imported, "strongroom/")
			if !ours || target == "wire" || strings.HasPrefix(target, "wire/") {
				continue
			}
			if !allowed(rule, rules[rule], target) {
				t.Errorf("%s imports %s: the lattice allows %s only %v", p.ImportPath, imported, rule, rules[rule])
			}
			if where, limited := onlyHere[imported]; limited && !within(where, folder) {
				t.Errorf("%s imports %s: only %v may", p.ImportPath, imported, where)
			}
		}
	}
}

type goPackage struct {
	ImportPath string
	Imports    []string
	CgoFiles   []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,CgoFiles", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var list []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		if p.ImportPath != "strongroom" && p.ImportPath != "strongroom/softhsm-tests" {
			list = append(list, p)
		}
	}
}

// longest finds the rule of a folder: its own or that of the nearest folder above.
func longest(rules map[string][]string, folder string) (string, bool) {
	for ; folder != "."; folder = path.Dir(folder) {
		if _, ok := rules[folder]; ok {
			return folder, true
		}
	}
	return "", false
}

func allowed(rule string, targets []string, target string) bool {
	return within(append([]string{rule}, targets...), target)
}

// within tells whether target is one of the folders or below one.
func within(folders []string, target string) bool {
	for _, f := range folders {
		if target == f || strings.HasPrefix(target, f+"/") {
			return true
		}
	}
	return false
}
