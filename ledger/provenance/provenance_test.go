package provenance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/rego"
	"google.golang.org/protobuf/proto"

	"strongroom/bccsp"
	"strongroom/bccsp/bccsptest"
	"strongroom/wire"
	"strongroom/wire/commonpb"
)

// readBlock is a block of a real Fabric channel as a Fabric peer keeps it.
func readBlock(t testing.TB, number uint64) *commonpb.Block {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("block-%06d.pb", number)))
	if err != nil {
		t.Fatal(err)
	}
	b := new(commonpb.Block)
	if err := proto.Unmarshal(raw, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func facts(t testing.TB, numbers ...uint64) []Facts {
	t.Helper()
	var all []Facts
	for _, n := range numbers {
		all = append(all, Facts{
			Block:         readBlock(t, n),
			Policies:      map[string]string{"kv": strings.Repeat("ab", 32), "_lifecycle": strings.Repeat("cd", 32)},
			PolicyBundles: []PolicyBundle{{Name: "acl", Digest: strings.Repeat("ef", 32)}},
		})
	}
	return all
}

// fixture is a recorder whose key is in a SoftHSM token.
type fixture struct {
	cfg   Config
	token bccsp.Verifier
	key   *bccsp.PublicKey
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	token := bccsptest.OpenShared(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	id := ca.Issue(t, "peer0", "peer")
	return &fixture{
		cfg: Config{
			Dir:     t.TempDir(),
			Channel: "mychannel",
			Signer:  id.Signer,
			Peer: Peer{
				Signer:     IdentityOf("Org1MSP", id.Certificate),
				HSM:        HSM{Manufacturer: "SoftHSM project", Model: "SoftHSM v2", Serial: "1", Firmware: "2.6", Profile: "softhsm-2.6"},
				Software:   Software{Name: "strongroom", Version: "test", Build: strings.Repeat("0a", 32)},
				OPAVersion: "1.22.2",
			},
			Now: func() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.UTC) },
		},
		token: token,
		key:   id.Signer.PublicKey(),
	}
}

// check verifies in the token.
func (f *fixture) check(pae, sig []byte) error {
	sum := sha256.Sum256(pae)
	return f.token.Verify(context.Background(), f.key, sum[:], sig)
}

func (f *fixture) open(t testing.TB) *Recorder {
	t.Helper()
	r, err := Open(f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func record(t testing.TB, r *Recorder, facts ...Facts) {
	t.Helper()
	if err := r.Record(t.Context(), facts...); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, r *Recorder, number uint64) []byte {
	t.Helper()
	b, err := r.Get(number)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestChainVerifies records a real channel's blocks and verifies the statements as
// an auditor does.
func TestChainVerifies(t *testing.T) {
	f := newFixture(t)
	r := f.open(t)
	record(t, r, facts(t, 0)...)
	record(t, r, facts(t, 1, 2)...)
	record(t, r, facts(t, 0, 1, 2, 3)...) // the first three are passed over
	var chain Chain
	var numbers []uint64
	for n, got := range r.All(0) {
		if got.Err != nil {
			t.Fatal(got.Err)
		}
		b := readBlock(t, n)
		c, err := Verify(got.Bundle, b.Header, f.check)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Statement.CheckBlock(b); err != nil {
			t.Error(err)
		}
		if err := chain.Add(c); err != nil {
			t.Error(err)
		}
		numbers = append(numbers, n)
	}
	if diff := cmp.Diff([]uint64{0, 1, 2, 3}, numbers); diff != "" {
		t.Error(diff)
	}
}

func TestStatementContent(t *testing.T) {
	f := newFixture(t)
	r := f.open(t)
	record(t, r, facts(t, 9)...)
	b := readBlock(t, 9)
	c, err := Verify(get(t, r, 9), b.Header, f.check)
	if err != nil {
		t.Fatal(err)
	}
	p := c.Statement.Predicate
	if got, want := c.Statement.Subject[0].Digest["sha256"], hex.EncodeToString(wire.BlockHash(b.Header)); got != want {
		t.Errorf("subject digest %s, block hash %s", got, want)
	}
	if len(p.OrdererSigners) != 1 || p.OrdererSigners[0].MSPID != "OrdererMSP" || !strings.Contains(p.OrdererSigners[0].Subject, "orderer") {
		t.Errorf("orderer signers are %+v", p.OrdererSigners)
	}
	if want := (Time{Value: f.cfg.Now().Truncate(time.Millisecond), Source: "host clock"}); p.Time != want {
		t.Errorf("time is %v, want %v", p.Time, want)
	}
	if p.HSM.KeyID != f.key.ID().String() || p.PreviousStatement != "" || len(p.CommitHash) != 64 {
		t.Errorf("predicate is %+v", p)
	}
	if diff := cmp.Diff([]Policy{{"_lifecycle", strings.Repeat("cd", 32)}, {"kv", strings.Repeat("ab", 32)}}, p.Policies); diff != "" {
		t.Error(diff)
	}
	if p.Transactions.Count != len(b.Data.Data) || p.Transactions.Codes["ENDORSEMENT_POLICY_FAILURE"] == 0 {
		t.Errorf("transactions are %+v", p.Transactions)
	}
}

// TestOpenSSL verifies a statement with a program that knows nothing of this one.
func TestOpenSSL(t *testing.T) {
	f := newFixture(t)
	r := f.open(t)
	record(t, r, facts(t, 3)...)
	b, err := ParseBundle(get(t, r, 3))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pub := write("pub.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: f.key.SPKI()}))
	sig := write("block.sig", b.Envelope.Signatures[0].Sig)
	pae := write("block.pae", PAE(b.Envelope.PayloadType, b.Envelope.Payload))
	header := write("header.der", wire.HeaderBytes(readBlock(t, 3).Header))
	out, err := exec.Command("openssl", "dgst", "-sha256", "-verify", pub, "-signature", sig, pae).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("Verified OK")) {
		t.Errorf("openssl: %v: %s", err, out)
	}
	if out, err := exec.Command("openssl", "dgst", "-sha256", "-verify", pub, "-signature", sig, header).CombinedOutput(); err == nil {
		t.Errorf("openssl verifies other bytes: %s", out)
	}
	out, err = exec.Command("openssl", "dgst", "-sha256", "-r", header).Output()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseStatement(b.Envelope.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, _ := strings.Cut(string(out), " "); got != s.Subject[0].Digest["sha256"] {
		t.Errorf("openssl hashes header.der to %s, the subject is %s", got, s.Subject[0].Digest["sha256"])
	}
}

// TestSchema holds a predicate against the published schema, judged by OPA's own
// JSON schema implementation.
func TestSchema(t *testing.T) {
	f := newFixture(t)
	r := f.open(t)
	record(t, r, facts(t, 0, 1)...)
	match := func(predicate any) bool {
		t.Helper()
		var schema any
		if err := json.Unmarshal(Schema, &schema); err != nil {
			t.Fatal(err)
		}
		rs, err := rego.New(rego.Query("x := json.match_schema(input.document, input.schema)"),
			rego.Input(map[string]any{"document": predicate, "schema": schema}), rego.StrictBuiltinErrors(true)).Eval(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return rs[0].Bindings["x"].([]any)[0].(bool)
	}
	for n := range uint64(2) {
		b, err := ParseBundle(get(t, r, n))
		if err != nil {
			t.Fatal(err)
		}
		var statement map[string]any
		if err := json.Unmarshal(b.Envelope.Payload, &statement); err != nil {
			t.Fatal(err)
		}
		predicate := statement["predicate"].(map[string]any)
		if !match(predicate) {
			t.Errorf("predicate of block %d does not match the schema: %s", n, b.Envelope.Payload)
		}
		predicate["value"] = "x"
		if match(predicate) {
			t.Error("schema lets an unknown field pass")
		}
	}
}

// TestVerifyRefuses changes one thing at a time.
func TestVerifyRefuses(t *testing.T) {
	f := newFixture(t)
	r := f.open(t)
	record(t, r, facts(t, 2, 3)...)
	good := get(t, r, 3)
	header := readBlock(t, 3).Header
	if _, err := Verify(good, header, f.check); err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) []byte {
		changed := bytes.Replace(good, []byte(old), []byte(new), 1)
		if bytes.Equal(changed, good) {
			t.Fatalf("bundle has no %q", old)
		}
		return changed
	}
	b, err := ParseBundle(good)
	if err != nil {
		t.Fatal(err)
	}
	payload := func(old, new string) []byte {
		changed := bytes.Replace(b.Envelope.Payload, []byte(old), []byte(new), 1)
		if bytes.Equal(changed, b.Envelope.Payload) {
			t.Fatalf("statement has no %q", old)
		}
		c := *b
		c.Envelope.Payload = changed
		raw, err := json.Marshal(&c)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	trust := func([]byte, []byte) error { return nil }
	other := proto.CloneOf(header)
	other.DataHash = bytes.Repeat([]byte{1}, 32)
	tests := []struct {
		name   string
		bundle []byte
		header *commonpb.BlockHeader
		check  func(pae, sig []byte) error
		want   string
	}{
		{"signature", payload(`"count":1`, `"count":2`), header, f.check, "signature"},
		{"another block", good, readBlock(t, 2).Header, f.check, "is about block 3"},
		{"another header", good, other, f.check, "the header's hash"},
		{"media type", replace("v0.3+json", "v0.2+json"), header, f.check, "media type"},
		{"payload type", replace("vnd.in-toto+json", "vnd.in-toto+jsom"), header, f.check, "payload type"},
		{"no signature", replace(`"signatures":[`, `"signatures":[],"x":[`), header, f.check, "unknown field"},
		{"doubled field", replace(`{"mediaType"`, `{"mediaType":"a","mediaType"`), header, f.check, "stands twice"},
		{"something behind", append(bytes.Clone(good), '1'), header, f.check, "follows"},
		{"count", payload(`"count":1`, `"count":2`), header, trust, "do not belong to the flags"},
		{"code", payload(`"VALID":1`, `"PHANTOM_READ_CONFLICT":1`), header, trust, "the flags hold"},
		{"spelling", payload(`"count":1`, `"count": 1`), header, trust, "one form"},
		{"doubled in statement", payload(`"channel":"mychannel"`, `"channel":"x","channel":"mychannel"`), header, trust, "one form"},
		{"case", payload(`"channel"`, `"Channel"`), header, trust, "one form"},
		{"unknown in statement", payload(`"channel"`, `"extra":1,"channel"`), header, trust, "unknown field"},
		{"predicate type", payload(`block/v1`, `block/v2`), header, trust, "predicate is of type"},
		{"statement type", payload(`Statement/v1`, `Statement/v0`), header, trust, "statement is of type"},
		{"subject name", payload(`mychannel/3/`, `mychannel/4/`), header, trust, "subject is"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Verify(tt.bundle, tt.header, tt.check)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
	c3, err := Verify(good, header, f.check)
	if err != nil {
		t.Fatal(err)
	}
	block := readBlock(t, 3)
	block.Metadata.Metadata[commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER][0] ^= 1
	if err := c3.Statement.CheckBlock(block); err == nil {
		t.Error("other verdicts pass")
	}
	block = readBlock(t, 3)
	block.Data.Data[0] = append(block.Data.Data[0], 0)
	if err := c3.Statement.CheckBlock(block); err == nil {
		t.Error("other data passes")
	}
}

func TestChainRefuses(t *testing.T) {
	f := newFixture(t)
	verified := func(dir string, numbers ...uint64) []*Checked {
		g := *f
		g.cfg.Dir = dir
		r := g.open(t)
		record(t, r, facts(t, numbers...)...)
		var all []*Checked
		for _, n := range numbers {
			c, err := Verify(get(t, r, n), readBlock(t, n).Header, f.check)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
		return all
	}
	one := verified(t.TempDir(), 0, 1, 2)
	f.cfg.Now = func() time.Time { return time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC) }
	two := verified(t.TempDir(), 0, 1, 2)
	for name, c := range map[string][]*Checked{
		"gap":           {one[0], one[2]},
		"twice":         {one[0], one[0]},
		"another chain": {one[0], two[1]},
	} {
		var chain Chain
		if err := chain.Add(c[0]); err != nil {
			t.Fatal(err)
		}
		if err := chain.Add(c[1]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRecordRefuses(t *testing.T) {
	f := newFixture(t)
	r := f.open(t)
	record(t, r, facts(t, 1)...)
	if err := r.Record(t.Context(), facts(t, 3)...); err == nil || !strings.Contains(err.Error(), "block 2") {
		t.Errorf("a gap gives %v", err)
	}
	if _, err := r.Get(3); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get of a block without statement gives %v", err)
	}
	uncommitted := facts(t, 2)
	uncommitted[0].Block.Metadata.Metadata[commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER] = nil
	if err := r.Record(t.Context(), uncommitted...); err == nil || !strings.Contains(err.Error(), "verdicts") {
		t.Errorf("a block without verdicts gives %v", err)
	}
	record(t, r, facts(t, 2)...)
	if next, any := r.Next(); next != 3 || any {
		t.Errorf("next is %d, %t", next, any)
	}
}

// brokenSigner fails after some signatures.
type brokenSigner struct {
	StatementSigner
	left atomic.Int64
}

func (s *brokenSigner) SignStatement(ctx context.Context, payloadType string, body []byte) ([]byte, error) {
	if s.left.Add(-1) < 0 {
		return nil, errors.New("CKR_DEVICE_ERROR")
	}
	return s.StatementSigner.SignStatement(ctx, payloadType, body)
}

func TestSignerFails(t *testing.T) {
	f := newFixture(t)
	broken := &brokenSigner{StatementSigner: f.cfg.Signer}
	broken.left.Store(2)
	f.cfg.Signer = broken
	r := f.open(t)
	if err := r.Record(t.Context(), facts(t, 0, 1, 2)...); err == nil || !strings.Contains(err.Error(), "CKR_DEVICE_ERROR") {
		t.Fatalf("got %v", err)
	}
	if _, any := r.Next(); !any {
		t.Error("some statements of the failed call are kept")
	}
	broken.left.Store(100)
	record(t, r, facts(t, 0, 1, 2)...)
}

// TestTornTail leaves every prefix of the last statement behind and checks that the
// recorder makes it again and the chain holds.
func TestTornTail(t *testing.T) {
	f := newFixture(t)
	r := f.open(t)
	record(t, r, facts(t, 0, 1)...)
	path := filepath.Join(f.cfg.Dir, fileName(0))
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	record(t, r, facts(t, 2)...)
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all := facts(t, 0, 1, 2, 3)
	try := func(data []byte) {
		t.Helper()
		g := *f
		g.cfg.Dir = t.TempDir()
		if err := os.WriteFile(filepath.Join(g.cfg.Dir, fileName(0)), data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Open(g.cfg)
		if err != nil {
			t.Fatal(err)
		}
		record(t, r, all...)
		var chain Chain
		count := 0
		for n, got := range r.All(0) {
			if got.Err != nil {
				t.Fatal(got.Err)
			}
			c, err := Verify(got.Bundle, all[n].Block.Header, f.check)
			if err != nil {
				t.Fatal(err)
			}
			if err := chain.Add(c); err != nil {
				t.Fatal(err)
			}
			count++
		}
		if count != 4 {
			t.Fatalf("%d statements of 4", count)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	step := (len(after) - len(before)) / 40
	for n := len(before); n <= len(after); n += step {
		try(after[:n])
		zeros := bytes.Clone(after)
		clear(zeros[n:])
		try(zeros)
	}
	try(nil)
}

func TestDamage(t *testing.T) {
	f := newFixture(t)
	r := f.open(t)
	record(t, r, facts(t, 0, 1, 2)...)
	path := filepath.Join(f.cfg.Dir, fileName(0))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	g := *f
	g.cfg.Dir = t.TempDir()
	data[bytes.IndexByte(data, '\n')+20] ^= 1
	if err := os.WriteFile(filepath.Join(g.cfg.Dir, fileName(0)), data, 0o600); err != nil {
		t.Fatal(err)
	}
	var corrupt *CorruptError
	if _, err := Open(g.cfg); !errors.As(err, &corrupt) || corrupt.Line != 2 {
		t.Errorf("damage in line 2 gives %v", err)
	}
	g.cfg.Channel = "other"
	g.cfg.Dir = f.cfg.Dir
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(g.cfg); err == nil || !strings.Contains(err.Error(), `"mychannel"`) {
		t.Errorf("statements of another channel give %v", err)
	}
}

// TestManyFiles goes over the end of a file. The blocks are made up: only their
// headers follow each other.
func TestManyFiles(t *testing.T) {
	f := newFixture(t)
	f.cfg.Signer = fastSigner{f.cfg.Signer}
	r := f.open(t)
	var all []Facts
	previous := []byte(nil)
	const blocks = fileBlocks*2 + 50
	for n := range uint64(blocks) {
		b := &commonpb.Block{
			Header:   &commonpb.BlockHeader{Number: n, PreviousHash: previous, DataHash: wire.DataHash(&commonpb.BlockData{})},
			Data:     &commonpb.BlockData{},
			Metadata: &commonpb.BlockMetadata{Metadata: make([][]byte, 5)},
		}
		previous = wire.BlockHash(b.Header)
		all = append(all, Facts{Block: b})
	}
	record(t, r, all[:fileBlocks-1]...)
	record(t, r, all...)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = f.open(t)
	if next, _ := r.Next(); next != blocks {
		t.Fatalf("next is %d, want %d", next, blocks)
	}
	for _, n := range []uint64{0, fileBlocks - 1, fileBlocks, 2*fileBlocks - 1, blocks - 1} {
		if _, err := Verify(get(t, r, n), all[n].Block.Header, func(_, _ []byte) error { return nil }); err != nil {
			t.Errorf("block %d: %v", n, err)
		}
	}
	var numbers uint64
	for _, got := range r.All(fileBlocks - 10) {
		if got.Err != nil {
			t.Fatal(got.Err)
		}
		numbers++
		if numbers == 20 {
			break
		}
	}
	if numbers != 20 {
		t.Errorf("All yields %d bundles of 20", numbers)
	}
}

// fastSigner stands in for a token where a test needs thousands of statements.
type fastSigner struct{ StatementSigner }

func (fastSigner) SignStatement(context.Context, string, []byte) ([]byte, error) {
	return []byte{0x30, 0}, nil
}

func FuzzVerify(f *testing.F) {
	header := readBlock(f, 1).Header
	for _, name := range []string{"seed-good.json"} {
		raw, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","dsseEnvelope":{"signatures":[{"sig":"MAA="}]}}`))
	f.Add([]byte(`[[[[{`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := Verify(raw, header, func(_, _ []byte) error { return nil })
		if err == nil && c.Statement.Predicate.Number != 1 {
			t.Error("a statement of another block passes")
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	f := newFixture(b)
	block := readBlock(b, 1)
	r := f.open(b)
	n := block.Header.Number
	for b.Loop() {
		next := proto.CloneOf(block)
		next.Header.Number = n
		if err := r.Record(b.Context(), Facts{Block: next}); err != nil {
			b.Fatal(err)
		}
		n++
	}
}
