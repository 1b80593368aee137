package softhsmtests

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ask runs the auditor's tool and reads its answer.
func (n network) ask(t *testing.T, into any, args ...string) {
	t.Helper()
	out, err := command(exec.Command(filepath.Join(n.bin, "strongroom-audit"), append(args, "--output", "json")...))
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// TestQuestions asks a pack about a key, its transactions, their endorsers and the
// policy that judged them, and compares packs.
func TestQuestions(t *testing.T) {
	n := start(t)
	u := n.dialUser(t, "org1")
	id := "asked-" + fmt.Sprint(n.height(t))
	txIDs := []string{}
	for _, args := range [][]string{
		{"CreateAsset", id, "blue", "3", "Ada", "9"},
		{"UpdateAsset", id, "red", "3", "Ada", "9"},
		{"DeleteAsset", id},
	} {
		done, err := u.Submit(t.Context(), call(args[0], args[1:]...))
		if err != nil {
			t.Fatal(err)
		}
		txIDs = append(txIDs, done.TxID)
	}
	early := n.export(t)

	type entry struct {
		Block              uint64
		TxID, Code         string
		Creator, Statement string
		Endorsers, Files   []string
		Policies           []struct{ Namespace, Digest string }
		LogIndex           *uint64
		Write              struct {
			Key     string
			Value   []byte
			Deleted bool
		}
		Writes []struct{ Namespace, Key string }
	}
	var versions struct {
		Verified bool
		Answer   struct{ Versions []entry }
	}
	proof := filepath.Join(t.TempDir(), "proof")
	n.ask(t, &versions, "key", "main", "asset", id, "--pack", early, "--extract", proof)
	got := versions.Answer.Versions
	if !versions.Verified || len(got) != 3 {
		t.Fatalf("%+v", versions)
	}
	for i, v := range got {
		if v.TxID != txIDs[i] || v.Code != "VALID" || v.Write.Key != id || len(v.Endorsers) != 2 || !strings.Contains(v.Creator, "of Org1MSP") ||
			v.Statement == "" || v.LogIndex == nil || len(v.Policies) == 0 || v.Policies[0].Namespace != "asset" {
			t.Errorf("version %d: %+v", i, v)
		}
		for _, f := range v.Files {
			if _, err := os.Stat(filepath.Join(proof, f)); err != nil {
				t.Error(err)
			}
		}
	}
	if !strings.Contains(string(got[0].Write.Value), "blue") || !strings.Contains(string(got[1].Write.Value), "red") || !got[2].Write.Deleted {
		t.Errorf("values: %q, %q, deleted %v", got[0].Write.Value, got[1].Write.Value, got[2].Write.Deleted)
	}
	sums := exec.Command("sha256sum", "--check", "--ignore-missing", "--quiet", "SHA256SUMS")
	sums.Dir = proof
	if _, err := command(sums); err != nil {
		t.Errorf("the extracted files: %v", err)
	}

	var one struct{ Answer struct{ Entries []entry } }
	n.ask(t, &one, "tx", txIDs[1], "--pack", early)
	if e := one.Answer.Entries; len(e) != 1 || e[0].Block != got[1].Block || len(e[0].Writes) == 0 {
		t.Errorf("tx: %+v", one)
	}
	var policy struct {
		Answer struct {
			Policies []struct{ Namespace, Digest string }
			Judged   []entry
		}
	}
	digest := got[0].Policies[0].Digest
	n.ask(t, &policy, "policy", digest[:12], "--pack", early)
	// Another chaincode of the network may have the same policy.
	asset := struct{ Namespace, Digest string }{"asset", digest}
	if p := policy.Answer; !slices.Contains(p.Policies, asset) || len(p.Judged) < 3 {
		t.Errorf("policy %s is of %+v and judged %d transactions", digest, p.Policies, len(p.Judged))
	}
	var identity struct {
		Answer struct {
			Certificates        []struct{ MSPID, SHA256 string }
			Submitted, Endorsed []entry
			StatedBlocks        []uint64
		}
	}
	n.ask(t, &identity, "identity", "CN=peer0.org1", "--pack", early)
	if a := identity.Answer; len(a.Certificates) != 1 || a.Certificates[0].MSPID != "Org1MSP" || len(a.Endorsed) < 3 || len(a.Submitted) != 0 || len(a.StatedBlocks) == 0 {
		t.Errorf("identity: %d endorsed, %d submitted, %d statements, certificates %+v", len(a.Endorsed), len(a.Submitted), len(a.StatedBlocks), a.Certificates)
	}
	by := identity.Answer.Certificates[0].SHA256
	n.ask(t, &identity, "identity", by, "--pack", early)
	if len(identity.Answer.Certificates) != 1 {
		t.Errorf("by fingerprint: %+v", identity.Answer.Certificates)
	}

	for want, args := range map[string][]string{
		"you ask about":       {"key", "other", "asset", id, "--pack", early},
		"eight digits":        {"policy", "xyz", "--pack", early},
		"more than one KEY":   {"key", "main", "asset", id, "more", "--pack", early},
		"\"pack\" not set":    {"tx", txIDs[0]},
		"of channel \"main\"": {"key", "mein", "asset", id, "--pack", early},
	} {
		if _, err := command(exec.Command(filepath.Join(n.bin, "strongroom-audit"), args...)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
	n.compare(t, early)
}

// compare holds an early pack of a channel against later ones: of the same peer, of
// another, and one that was tampered with.
func (n network) compare(t *testing.T, early string) {
	t.Helper()
	late := n.export(t)
	other := filepath.Join(t.TempDir(), "other.tar.zst")
	n.admin(t, "org2", "audit", "export", "main", "--out", other)
	type comparison struct {
		CommonBlocks   uint64
		Continuous     bool
		Log            string
		Contradictions []string
		Changes        []struct{ What string }
	}
	var c comparison
	n.ask(t, &c, "diff", early, late)
	if !c.Continuous || c.CommonBlocks < 4 || len(c.Contradictions) != 0 || !strings.Contains(c.Log, "only adds to") {
		t.Errorf("early and late: %+v", c)
	}
	c = comparison{}
	n.ask(t, &c, "diff", late, other)
	if !c.Continuous || !strings.Contains(c.Log, "two signers") || !strings.Contains(fmt.Sprint(c.Changes), "statements are signed by CN=peer0.org2") {
		t.Errorf("two peers: %+v", c)
	}
	// The first checkpoint is replaced by a later one of the same log: findings.
	mixed, later := unpack(t, early), unpack(t, late)
	data, err := os.ReadFile(filepath.Join(later, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(mixed, "checkpoint"), data)
	if _, err := command(exec.Command(filepath.Join(n.bin, "strongroom-audit"), "diff", mixed, late)); err == nil || !strings.Contains(err.Error(), "contradictions and findings") {
		t.Errorf("a pack with another checkpoint: %v", err)
	}
}
