package bundles_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"strongroom/acl"
	"strongroom/acl/bundles"
	"strongroom/acl/decisions"
	"strongroom/acl/endorsement"
	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/policy/bundle"
	"strongroom/wire/msppb"
)

// node is the part of a node that decides.
type node struct {
	verifier bccsp.Verifier
	signer   *bccsp.Signer // of the security team, in the token
	key      bundle.Key
	caller   *msp.Identity
	layers   *acl.Guard
	endorse  *endorsement.Guard
	dir      string
	source   string
	log      *decisions.Log
	kept     func(decision []byte) // of the log; nil drops them
}

func newNode(t testing.TB) *node {
	t.Helper()
	token := bccsptest.Open(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	set, err := msp.NewSet(t.Context(), token, []*msppb.MSPConfig{ca.MSPConfig()})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{verifier: token, dir: t.TempDir(), source: filepath.Join(t.TempDir(), "bundle.tar.gz")}
	team := ca.Issue(t, "security", "client")
	n.signer = team.Signer
	if n.key, err = bundle.ParseKey(team.CertPEM, "team", "fabric"); err != nil {
		t.Fatal(err)
	}
	if n.caller, err = set.Identity(t.Context(), ca.Issue(t, "admin", "admin").Serialized()); err != nil {
		t.Fatal(err)
	}
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	store := decisions.StoreFunc(func(_ context.Context, e decisions.Entry, _ int) error {
		if n.kept == nil {
			return nil
		}
		b, _, err := e.Render()
		n.kept(b)
		return err
	})
	if n.log, err = decisions.New(decisions.Config{Store: store}); err != nil {
		t.Fatal(err)
	}
	if n.layers, err = acl.New(acl.Config{Engine: engine, Local: set, LocalMSPID: "Org1MSP", Decisions: n.log}); err != nil {
		t.Fatal(err)
	}
	if n.endorse, err = endorsement.New(endorsement.Config{Engine: engine, Decisions: n.log}); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) config() bundles.Config {
	return bundles.Config{Dir: filepath.Join(n.dir, "policy"), Source: bundles.File(n.source), Verifier: n.verifier, Key: n.key,
		Layers: n.layers, Endorse: n.endorse}
}

// offer signs files and puts the archive where the source is.
func (n *node) offer(t testing.TB, revision uint64, files map[string]string) {
	t.Helper()
	manifest, err := bundle.Manifest(revision)
	if err != nil {
		t.Fatal(err)
	}
	contents := bundle.Contents{".manifest": manifest}
	for name, text := range files {
		contents[name] = []byte(text)
	}
	archive, err := bundle.Sign(t.Context(), n.signer, "team", "fabric", contents)
	if err != nil {
		t.Fatal(err)
	}
	n.place(t, archive)
}

func (n *node) place(t testing.TB, archive []byte) {
	t.Helper()
	if err := os.WriteFile(n.source+".new", archive, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(n.source+".new", n.source); err != nil {
		t.Fatal(err)
	}
}

// rules allow the functions that data lists, say in which revision they are, and
// endorse chaincode of that name alone.
func rules(functions ...string) map[string]string {
	return map[string]string{
		"shared.rego":   "package team.shared\n\nlisted(f) if f in data.functions\n",
		"function.rego": "package strongroom.acl.function\n\nimport data.team.shared\n\ndefault allow := false\n\nallow if shared.listed(input.function)\n",
		"endorse.rego":  "package strongroom.endorse\n\nimport data.team.shared\n\ndefault allow := false\n\nallow if shared.listed(input.chaincode.name)\n",
		"function_test.rego": "package strongroom.acl.function_test\n\nimport data.strongroom.acl.function\n\n" +
			"test_listed if every f in data.functions {\n\tfunction.allow with input.function as f\n}\n\ntest_not_listed if not function.allow with input.function as \"nobody\"\n",
		"data.json": `{"functions": ["` + strings.Join(functions, `", "`) + `"]}`,
	}
}

func (n *node) allows(function string) bool {
	_, err := n.layers.Check(context.Background(), nil, acl.Request{Resource: acl.ResourceCSCCJoinChain, Chaincode: "cscc", Function: function, Caller: n.caller})
	return err == nil
}

func (n *node) endorses(chaincode string) bool {
	return n.endorse.Check(context.Background(), &endorsement.Proposal{Chaincode: chaincode, Caller: n.caller}) == nil
}

func open(t testing.TB, c bundles.Config) *bundles.Keeper {
	t.Helper()
	k, err := bundles.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeeper(t *testing.T) {
	n := newNode(t)
	if _, err := bundles.Open(t.Context(), n.config()); err == nil {
		t.Fatal("opened without any bundle")
	}
	n.offer(t, 5, rules("a"))
	k := open(t, n.config())
	if !n.allows("a") || n.allows("b") || !n.endorses("a") || n.endorses("b") {
		t.Error("the bundle's rules are not in force")
	}
	n.offer(t, 6, rules("b"))
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.allows("a") || !n.allows("b") || n.endorses("a") || !n.endorses("b") || k.Current().Revision != 6 {
		t.Errorf("revision %d is in force, the rules are not", k.Current().Revision)
	}

	with := func(name, text string) map[string]string {
		files := rules("c")
		files[name] = text
		return files
	}
	refusals := []struct {
		name     string
		revision uint64
		files    map[string]string
		want     string
	}{
		{"older", 5, rules("a"), "may not go back"},
		{"same revision, other content", 6, rules("c"), "may not go back"},
		{"does not parse", 9, with("function.rego", "package strongroom.acl.function\n\nallow {"), "function.rego:3"},
		{"a built-in that is not allowed", 9, with("function.rego", "package strongroom.acl.function\n\ndefault allow := false\n\nallow if http.send({}).ok\n"), "function.rego:5"},
		{"a misspelt field", 9, with("endorse.rego", "package strongroom.endorse\n\ndefault allow := false\n\nallow if input.writs == []\n"), "endorse.rego:5"},
		{"allowed by default", 9, with("function.rego", "package strongroom.acl.function\n\ndefault allow := true\n"), "must be false"},
		{"a layer that there is not", 9, with("x.rego", "package strongroom.acl.chanel\n\ndefault allow := false\n"), "nothing asks the package strongroom.acl.chanel"},
		{"data that there is not", 9, with("data.json", `{"other": 1}`), "nothing defines data.functions"},
		{"a test fails", 9, with("more_test.rego", "package more_test\n\ntest_never if 1 == 2\n"), "test more_test.test_never"},
		{"no rules that anything asks", 9, map[string]string{"x.rego": "package team\n\nx := 1\n"}, "none of the packages"},
		{"a library that does not compile", 9, with("lib.rego", "package team.lib\n\nx := unknown(1)\n"), "lib.rego:3"},
	}
	for _, r := range refusals {
		n.offer(t, r.revision, r.files)
		if err := k.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), r.want) {
			t.Errorf("%s: error = %v, want %q", r.name, err, r.want)
		}
		if err := k.Refresh(t.Context()); err != nil {
			t.Errorf("%s: tried again: %v", r.name, err)
		}
		if !n.allows("b") || n.allows("c") || k.Current().Revision != 6 {
			t.Fatalf("%s: the rules in force changed", r.name)
		}
	}
	n.place(t, []byte("no archive"))
	if err := k.Refresh(t.Context()); err == nil {
		t.Error("bytes that are no archive are taken")
	}

	t.Run("restart", func(t *testing.T) {
		// The source offers nothing good; what was kept decides.
		again := newNode(t)
		n.layers, n.endorse, n.caller = again.layers, again.endorse, again.caller
		k := open(t, n.config())
		if k.Current().Revision != 6 || !n.allows("b") || n.allows("a") {
			t.Errorf("after the restart revision %d decides", k.Current().Revision)
		}
		n.offer(t, 5, rules("a"))
		if err := k.Refresh(t.Context()); !errors.Is(err, bundles.ErrOlder) {
			t.Errorf("older after the restart: %v", err)
		}
	})
	t.Run("key changed", func(t *testing.T) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := n.config()
		if c.Key.Public, err = bccsp.NewPublicKey(key.Public()); err != nil {
			t.Fatal(err)
		}
		if _, err := bundles.Open(t.Context(), c); !errors.Is(err, bccsp.ErrBadSignature) {
			t.Errorf("bundles of the former key alone: %v", err)
		}
		// A new key does not let revisions go back either.
		c.Key = n.key
		c.Key.Scope = "moved"
		manifest, err := bundle.Manifest(5)
		if err != nil {
			t.Fatal(err)
		}
		files := bundle.Contents{".manifest": manifest}
		for name, text := range rules("a") {
			files[name] = []byte(text)
		}
		archive, err := bundle.Sign(t.Context(), n.signer, "team", "moved", files)
		if err != nil {
			t.Fatal(err)
		}
		n.place(t, archive)
		if _, err := bundles.Open(t.Context(), c); !errors.Is(err, bundles.ErrOlder) {
			t.Errorf("an older bundle under a new scope: %v", err)
		}
	})
	t.Run("what was kept is damaged", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(n.dir, "policy", "bundle.tar.gz"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := bundles.Open(t.Context(), n.config()); err == nil || !strings.Contains(err.Error(), "cannot be told") {
			t.Errorf("error = %v", err)
		}
	})
}

// TestTokenFailureIsTriedAgain: what the token could not verify is no refusal.
func TestTokenFailureIsTriedAgain(t *testing.T) {
	n := newNode(t)
	n.offer(t, 1, rules("a"))
	broken := &flaky{Verifier: n.verifier}
	c := n.config()
	c.Verifier = broken
	k := open(t, c)
	n.offer(t, 2, rules("b"))
	broken.fails.Store(true)
	if err := k.Refresh(t.Context()); !errors.Is(err, bundle.ErrNotAnswered) || !n.allows("a") {
		t.Errorf("error = %v", err)
	}
	broken.fails.Store(false)
	if err := k.Refresh(t.Context()); err != nil || !n.allows("b") {
		t.Errorf("error = %v", err)
	}
}

type flaky struct {
	bccsp.Verifier
	fails atomic.Bool
}

func (f *flaky) VerifyX509(ctx context.Context, key *bccsp.PublicKey, digest, sig []byte) error {
	if f.fails.Load() {
		return errors.New("CKR_DEVICE_ERROR")
	}
	return f.Verifier.VerifyX509(ctx, key, digest, sig)
}

// TestDiskFailure: what cannot be kept does not decide.
func TestDiskFailure(t *testing.T) {
	n := newNode(t)
	n.offer(t, 1, rules("a"))
	c := n.config()
	k := open(t, c)
	if err := os.RemoveAll(c.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.offer(t, 2, rules("b"))
	if err := k.Refresh(t.Context()); err == nil || !n.allows("a") || n.allows("b") {
		t.Errorf("a bundle that could not be kept decides: %v", err)
	}
	if err := os.Remove(c.Dir); err != nil {
		t.Fatal(err)
	}
	if err := k.Refresh(t.Context()); err != nil || !n.allows("b") {
		t.Errorf("tried again: %v", err)
	}
}

func TestFolder(t *testing.T) {
	n := newNode(t)
	c := n.config()
	c.Source = bundles.Folder(filepath.Dir(n.source))
	if _, err := bundles.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no file *.tar.gz") {
		t.Errorf("an empty folder: %v", err)
	}
	for revision, name := range []string{"b-001.tar.gz", "b-002.tar.gz"} {
		n.source = filepath.Join(filepath.Dir(n.source), name)
		n.offer(t, uint64(revision+1), rules(name))
	}
	if k := open(t, c); k.Current().Revision != 2 || !n.allows("b-002.tar.gz") {
		t.Errorf("revision %d is taken", k.Current().Revision)
	}
}

// TestReloadUnderLoad takes a hundred revisions while decisions are made. Function and
// chaincode "always" are allowed in all of them and "never" in none, whatever is being
// swapped; "even" is allowed in every second, from the moment that it was taken, however
// often the revision before it was asked and remembered.
func TestReloadUnderLoad(t *testing.T) {
	const revisions = 100
	n := newNode(t)
	set := func(revision int) map[string]string {
		if revision%2 == 0 {
			return rules("always", "even")
		}
		return rules("always")
	}
	n.offer(t, 1, set(1))
	k := open(t, n.config())
	stop := make(chan struct{})
	var asked, wrong atomic.Uint64
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				// A function that was never asked about is decided anew, not remembered.
				if !n.allows("always") || n.allows("never") || n.allows(fmt.Sprint("never", i)) || !n.endorses("always") || n.endorses("never") {
					wrong.Add(1)
				}
				// It asks so that the answer is remembered, by whichever rules.
				n.allows("even")
				asked.Add(6)
			}
		})
	}
	for revision := 2; revision <= revisions+1; revision++ {
		n.offer(t, uint64(revision), set(revision))
		if err := k.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		if got := n.allows("even"); got != (revision%2 == 0) {
			t.Errorf("revision %d: even is %v", revision, got)
		}
	}
	close(stop)
	workers.Wait()
	if wrong.Load() != 0 || asked.Load() < 1000 || k.Current().Revision != revisions+1 {
		t.Errorf("%d reloads to revision %d, %d decisions, %d of them wrong", revisions, k.Current().Revision, asked.Load(), wrong.Load())
	}
	t.Logf("%d reloads, %d decisions, %d wrong", revisions, asked.Load(), wrong.Load())
}

// TestRunLooksAtTheSource polls a file that is replaced.
func TestRunLooksAtTheSource(t *testing.T) {
	n := newNode(t)
	n.offer(t, 1, rules("a"))
	c := n.config()
	c.Poll = time.Millisecond
	taken := make(chan uint64, 16)
	c.Observe = func(result string, revision uint64) { taken <- revision }
	k := open(t, c)
	<-taken
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { k.Run(ctx) })
	n.offer(t, 2, rules("b"))
	select {
	case revision := <-taken:
		if revision != 2 || !n.allows("b") {
			t.Errorf("revision %d was taken", revision)
		}
	case <-time.After(20 * time.Second):
		t.Error("the new file was not seen")
	}
	cancel()
	running.Wait()
}
