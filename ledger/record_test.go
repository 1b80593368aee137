package ledger

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/ledger/compress"
	"strongroom/ledger/seal/sealtest"
	"strongroom/wire/commonpb"
)

// forms reads in which form the outline of each record of a ledger is: 1 compressed, 0
// as it is.
func forms(t *testing.T, l *Ledger) string {
	t.Helper()
	var b strings.Builder
	for n := range l.Height() {
		r, err := l.readRecord(n)
		if err != nil {
			t.Fatal(err)
		}
		if r.form != formSplit {
			t.Errorf("block %d is of form %c", n, r.form)
		}
		content, err := l.records.open(r)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteByte('0' + content[0])
	}
	return b.String()
}

// commitOne commits a real block of one transaction again and again, under other
// numbers: the same identities come in each.
func commitOne(t *testing.T, l *Ledger, n int) {
	t.Helper()
	for range n {
		info := l.Info()
		b := proto.Clone(fabricBlock(t, 11)).(*commonpb.Block)
		b.Header.Number, b.Header.PreviousHash = info.Height, info.CurrentBlockHash
		parsed := parse(t, b)
		if err := l.Commit(context.Background(), parsed, asValidated(fabricFlags(t, 11))); err != nil {
			t.Fatal(err)
		}
	}
}

func readAll(t *testing.T, l *Ledger) []*commonpb.Block {
	t.Helper()
	var all []*commonpb.Block
	for n := range l.Height() {
		b, err := l.readBlock(n)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b.Block)
	}
	return all
}

func checkSame(t *testing.T, want, got []*commonpb.Block) {
	t.Helper()
	if len(want) != len(got) {
		t.Fatalf("%d blocks, want %d", len(got), len(want))
	}
	for n := range want {
		if !proto.Equal(want[n], got[n]) {
			t.Errorf("block %d differs", n)
		}
	}
}

// Small blocks share a dictionary that one of them holds; it is found again after a
// restart, and when the index is rebuilt; an unknown field of a block is kept.
func TestRecordDictionary(t *testing.T) {
	k := sealtest.Keyring(t)
	dir := memoryDir(t)
	l := openTest(t, dir, k)
	commitFabric(t, l, fabricBlocks)
	commitOne(t, l, 40)
	info := l.Info()
	b := fabricBlock(t, 11)
	b.Header.Number, b.Header.PreviousHash = info.Height, info.CurrentBlockHash
	b.ProtoReflect().SetUnknown([]byte{0x7a, 3, 'n', 'e', 'w'})
	if err := l.Commit(context.Background(), parse(t, b), asValidated(fabricFlags(t, 11))); err != nil {
		t.Fatal(err)
	}
	last := l.Height() - 1
	held, size := holder(t, l, last)
	if held == last || size > 1800 {
		t.Errorf("the last record has %d bytes and its dictionary is in block %d", size, held)
	}
	whole := readAll(t, l)
	if got := whole[last].ProtoReflect().GetUnknown(); string(got) != "z\x03new" {
		t.Errorf("unknown field is %q", got)
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = openTest(t, dir, k)
		checkSame(t, whole, readAll(t, l))
		commitOne(t, l, 1)
		if again, size := holder(t, l, l.Height()-1); again != held || size > 1800 {
			t.Errorf("after a restart the record has %d bytes, its dictionary is in block %d, not %d", size, again, held)
		}
		whole = readAll(t, l)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "index")); err != nil {
		t.Fatal(err)
	}
	checkSame(t, whole, readAll(t, openTest(t, dir, k)))
}

// holder is the block that holds the dictionary of a record, and the record's length.
func holder(t *testing.T, l *Ledger, number uint64) (uint64, int) {
	t.Helper()
	r, err := l.readRecord(number)
	if err != nil {
		t.Fatal(err)
	}
	content, err := l.records.open(r)
	if err != nil {
		t.Fatal(err)
	}
	n, used, err := compress.Holder(number, content)
	if err != nil || !used {
		t.Fatalf("block %d: %t, %v", number, used, err)
	}
	return n, len(r.sealed)
}

// A record whose dictionary is gone or damaged names the block that holds it, and a
// record does not open as one of another form.
func TestRecordRefused(t *testing.T) {
	l := newTest(t)
	commitFabric(t, l, fabricBlocks)
	commitOne(t, l, 40)
	last := l.Height() - 1
	held, _ := holder(t, l, last)
	r, err := l.readRecord(last)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.records.decode(r); err != nil {
		t.Fatal(err)
	}
	for _, load := range []func(uint64) (record, error){
		func(n uint64) (record, error) { r, err := l.readRecord(n); r.sealed[30] ^= 1; return r, err },
		func(n uint64) (record, error) { r, err := l.readRecord(n - 1); r.number++; return r, err },
	} {
		other, err := newBlockRecords(l.config, load)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := other.decode(r); err == nil || !strings.Contains(err.Error(), "at "+blockPlaceText(held)) {
			t.Errorf("%v, %v", b, err)
		}
	}
	r.form = formMarshalled
	if b, err := l.records.decode(r); err == nil {
		t.Errorf("it is read as %v", b)
	}
}

func blockPlaceText(n uint64) string {
	p := sealer{}.outlinePlace(n).String()
	return p[strings.LastIndex(p, " ")+1:]
}

// A block of more than can be compressed is written as it is.
func TestRecordTooLong(t *testing.T) {
	k := sealtest.Keyring(t)
	dir := memoryDir(t)
	l := openTest(t, dir, k)
	l.records.limit = 50_000
	commitFabric(t, l, fabricBlocks)
	if got, want := forms(t, l), "111100011111"; got != want {
		t.Errorf("forms are %s, want %s", got, want)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range derivedStores {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	checkWhole(t, openTest(t, dir, k))
}

// A commit that fails while its block is being compressed leaves nothing that uses
// the block behind it.
func TestRecordBegunWaits(t *testing.T) {
	l := newTest(t)
	commitFabric(t, l, 4)
	l.hook = func(step string) error {
		if step == "private" {
			return context.DeadlineExceeded
		}
		return nil
	}
	b := parse(t, fabricBlock(t, 4))
	if err := l.Commit(context.Background(), b, asValidated(fabricFlags(t, 4))); err == nil {
		t.Fatal("it is committed")
	}
	select {
	case err := <-l.records.begun:
		t.Errorf("the outcome was not waited for: %v", err)
	default:
	}
	clear(b.Proto.Data.Data) // the race detector sees who still reads
	if !bytes.Equal(l.Info().CurrentBlockHash, parse(t, fabricBlock(t, 3)).Hash) {
		t.Error("the end has moved")
	}
}
