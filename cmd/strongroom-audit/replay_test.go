package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/channel/configtx"
	"strongroom/policy"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// lastBlock is the number of the last block of a channel that Fabric's peers judged.
const lastBlock = 11

// readBlock reads a block and gives it the verdicts and the commit hash that a Fabric
// peer recorded.
func readBlock(t *testing.T, number int) *commonpb.Block {
	t.Helper()
	b := &commonpb.Block{}
	if err := proto.Unmarshal(readFile(t, fmt.Sprintf("block-%06d.pb", number)), b); err != nil {
		t.Fatal(err)
	}
	slots := b.GetMetadata().GetMetadata()
	for len(slots) <= int(commonpb.BlockMetadataIndex_COMMIT_HASH) {
		slots = append(slots, nil)
	}
	var flags []byte
	each(t, "verdicts.txt", number, func(rest string) {
		code, ok := peerpb.TxValidationCode_value[strings.Fields(rest)[1]]
		if !ok {
			t.Fatalf("verdicts.txt has %q", rest)
		}
		flags = append(flags, byte(code))
	})
	slots[commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER] = flags
	slots[commonpb.BlockMetadataIndex_COMMIT_HASH] = nil
	each(t, "commit-hashes.txt", number, func(rest string) {
		hash, err := hex.DecodeString(strings.TrimSpace(rest))
		if err != nil {
			t.Fatal(err)
		}
		value, err := proto.Marshal(&commonpb.Metadata{Value: hash})
		if err != nil {
			t.Fatal(err)
		}
		slots[commonpb.BlockMetadataIndex_COMMIT_HASH] = value
	})
	b.Metadata.Metadata = slots
	return b
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("../../channel/testdata/interop", name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// each gives what stands after a block's number on its lines.
func each(t *testing.T, name string, block int, do func(rest string)) {
	t.Helper()
	for line := range strings.Lines(string(readFile(t, name))) {
		if rest, ok := strings.CutPrefix(line, fmt.Sprintf("%d ", block)); ok {
			do(rest)
		}
	}
}

// audit judges the chain again, with one block changed.
func audit(t *testing.T, change func(*commonpb.Block)) *Report {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	a := &auditor{report: &Report{Codes: map[string]int{}}, deps: configtx.Deps{Verifier: software{}, Engine: engine}}
	if a.config, err = configtx.FromBlock(t.Context(), a.deps, readBlock(t, 0)); err != nil {
		t.Fatal(err)
	}
	if a.replay, err = newReplay(t.Context(), a.config.ID, engine); err != nil {
		t.Fatal(err)
	}
	for n := range lastBlock + 1 {
		b := readBlock(t, n)
		change(b)
		if err := a.transactions(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.endReplay(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("the replay left %v behind, %v", left, err)
	}
	return a.report
}

// TestReplay computes the verdicts and commit hashes of Fabric's peers again, and
// finds each that is changed.
func TestReplay(t *testing.T) {
	report := audit(t, func(*commonpb.Block) {})
	if len(report.Findings) > 0 || report.Replay != (ReplayReport{Blocks: lastBlock + 1}) {
		t.Fatalf("%+v %v", report.Replay, report.Findings)
	}
	filter := func(b *commonpb.Block) []byte {
		return slot(b, commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER)
	}
	codes := map[byte]bool{}
	for n := 1; n <= lastBlock; n++ {
		for i, code := range filter(readBlock(t, n)) {
			if codes[code] {
				continue // one of each kind
			}
			codes[code] = true
			wrong := byte(peerpb.TxValidationCode_MVCC_READ_CONFLICT)
			if code != 0 {
				wrong = 0
			}
			report := audit(t, func(b *commonpb.Block) {
				if b.GetHeader().GetNumber() == uint64(n) {
					filter(b)[i] = wrong
				}
			})
			want := fmt.Sprintf("the peer's verdict is %s, the channel's rules give %s", peerpb.TxValidationCode(wrong), peerpb.TxValidationCode(code))
			if !strings.Contains(fmt.Sprint(report.Findings), want) {
				t.Errorf("block %d transaction %d: findings %v, want %q", n, i, report.Findings, want)
			}
		}
	}
	if len(codes) < 4 {
		t.Errorf("the chain has only %d kinds of verdicts", len(codes))
	}
	report = audit(t, func(b *commonpb.Block) {
		if b.GetHeader().GetNumber() == 5 {
			commit := slot(b, commonpb.BlockMetadataIndex_COMMIT_HASH)
			commit[len(commit)-1] ^= 1
		}
	})
	if !strings.Contains(fmt.Sprint(report.Findings), "block 5: its commit hash") {
		t.Errorf("a false commit hash: %v", report.Findings)
	}
}

// TestPage escapes what comes out of a pack.
func TestPage(t *testing.T) {
	r := &Report{Channel: "main", Findings: []Finding{{Detail: "<script>alert(1)</script>"}}}
	var page bytes.Buffer
	if err := r.html(&page); err != nil {
		t.Fatal(err)
	}
	if text := page.String(); strings.Contains(text, "<script>") || !strings.Contains(text, "Not verified.") {
		t.Errorf("the page says\n%s", text)
	}
}
