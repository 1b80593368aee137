package ledger

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"strongroom/ledger/disk/disktest"
	"strongroom/ledger/seal"
	"strongroom/ledger/seal/sealtest"
	"strongroom/wire/commonpb"
)

var updateFaults = flag.Bool("update-faults", false, "write the fault table into docs/design/faults.md")

// faultDoc has the table between these lines.
const (
	faultDoc   = "../docs/design/faults.md"
	tableBegin = "<!-- table: go test ./ledger -run TestFaultTable -update-faults -->\n"
	tableEnd   = "<!-- end of table -->\n"
)

// The scenario: a ledger of faultBase blocks is opened, gets more up to faultEnd and a
// private write, and is closed. Block files are small, so that some are begun.
const (
	faultDir  = "/ledger"
	faultBase = 4
	faultEnd  = 7
	keptTx    = "kept by the fault test"
)

type faultWorld struct {
	keyring *seal.Keyring
	base    *disktest.Memory
}

func (w *faultWorld) open(m *disktest.Memory) (*Ledger, error) {
	return openIn(faultDir, w.keyring, func(c *Config) { c.FS, c.BlockFileSize, c.writeBuffer = m, 40_000, 256<<10 })
}

// progress is what the ledger acknowledged before something failed.
type progress struct {
	height uint64
	kept   bool
	err    error // of the step that failed
}

// work runs the scenario until something fails.
func (w *faultWorld) work(t *testing.T, m *disktest.Memory) (p progress) {
	p.height = faultBase
	l, err := w.open(m)
	if err != nil {
		p.err = err
		return p
	}
	for n := l.Height(); n < faultEnd && p.err == nil; n++ {
		if p.err = l.Commit(context.Background(), parse(t, unvalidated(t, n)), asValidated(fabricFlags(t, n))); p.err == nil {
			p.height = n + 1
		}
		if n == faultBase && p.err == nil {
			p.err = l.KeepPrivate(keptTx, privateWrites(t, "key", "value"))
			p.kept = p.err == nil
		}
	}
	if err := l.Close(); p.err == nil {
		p.err = err
	}
	return p
}

// recovered opens what a fault left and says what is wrong with it: everything that was
// acknowledged must be there, and the ledger must go on to the end as Fabric's did.
func (w *faultWorld) recovered(t *testing.T, m *disktest.Memory, p progress) error {
	l, err := w.open(m)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer l.Close() //nolint:errcheck // memory
	height := l.Height()
	if height < p.height || height > faultEnd {
		return fmt.Errorf("height is %d, %d was acknowledged", height, p.height)
	}
	if want := fabricCommitHashes(t)[height-1]; !bytes.Equal(l.CommitHash(), want) {
		return fmt.Errorf("commit hash at height %d is %x, want %x", height, l.CommitHash(), want)
	}
	rows := l.private.NewIterator(prefixRange(keptPrefix(keptTx), "", ""), nil)
	kept := rows.Next()
	rows.Release()
	if err := rows.Error(); err != nil || p.kept && !kept {
		return fmt.Errorf("kept private writes: there is %v, %w", kept, err)
	}
	commitFabric(t, l, fabricBlocks)
	checkWhole(t, l)
	return nil
}

// unvalidated is a block of the Fabric channel as an orderer delivers it.
func unvalidated(t *testing.T, number uint64) *commonpb.Block {
	t.Helper()
	b := fabricBlock(t, number)
	b.Metadata.Metadata[commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER] = nil
	b.Metadata.Metadata = b.Metadata.Metadata[:commonpb.BlockMetadataIndex_COMMIT_HASH]
	return b
}

// kindOf says what a file is for.
func kindOf(name string) string {
	rel := strings.TrimPrefix(strings.TrimPrefix(name, faultDir), "/")
	store, file, in := strings.Cut(rel, "/")
	if slices.Contains(derivedStores, store) {
		store = "derived store"
	}
	switch {
	case rel == "":
		return "folder"
	case strings.HasPrefix(rel, formatFile):
		return formatFile
	case !in:
		return "folder of " + store
	case store == "blocks":
		return "block log"
	case strings.HasPrefix(file, "CURRENT"):
		return store + " CURRENT"
	case strings.HasPrefix(file, "MANIFEST"):
		return store + " manifest"
	case strings.HasSuffix(file, ".log"):
		return store + " journal"
	case strings.HasSuffix(file, ".ldb"):
		return store + " table"
	}
	return store + " " + file
}

// table counts outcomes by step and fault.
type table struct {
	mu    sync.Mutex
	cells map[[2]string]map[string]int // {step, fault} → outcome → cases
}

func (b *table) add(step, fault, outcome string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := [2]string{step, fault}
	if b.cells[key] == nil {
		b.cells[key] = map[string]int{}
	}
	b.cells[key][outcome]++
}

// fault is something that goes wrong at one step, and what the disk is like then. The
// letters of outcomes are those of the document: s stops, g goes on.
type fault struct {
	name string
	// at is the error of a step; here says that it is the one that the case is about.
	at func(here, later bool, op disktest.Op) error
	// after is the disk that the next start finds.
	after func(m *disktest.Memory) *disktest.Memory
}

var errPower = errors.New("power is gone")

// powerOff ends everything at a step; the step itself may be done in part.
func powerOff(here error) func(bool, bool, disktest.Op) error {
	return func(at, later bool, op disktest.Op) error {
		switch {
		case at && op.Kind == "write":
			return here
		case at || later:
			return errPower
		}
		return nil
	}
}

func lastingError(err error) func(bool, bool, disktest.Op) error {
	return func(at, later bool, op disktest.Op) error {
		if (at || later) && op.Changes() {
			return err
		}
		return nil
	}
}

func asIs(m *disktest.Memory) *disktest.Memory { return m.Clone() }

func after(persist disktest.Persist, named bool) func(*disktest.Memory) *disktest.Memory {
	return func(m *disktest.Memory) *disktest.Memory { return m.AfterPowerFailure(persist, named) }
}

var faults = []fault{
	{"killed", powerOff(disktest.ErrTorn), asIs},
	{"lost", powerOff(errPower), after(disktest.Lost, false)},
	{"kept", powerOff(disktest.ErrTorn), after(disktest.Kept, true)},
	{"half", powerOff(disktest.ErrTorn), after(disktest.Half, true)},
	{"holes", powerOff(errPower), after(disktest.Holes, true)},
	{"swapped", powerOff(errPower), after(disktest.Swapped, true)},
	{"ENOSPC", func(at, later bool, op disktest.Op) error {
		if (at || later) && (op.Kind == "write" || op.Kind == "create") {
			return syscall.ENOSPC
		}
		return nil
	}, asIs},
	{"EROFS", lastingError(syscall.EROFS), asIs},
	{"EIO", func(at, _ bool, _ disktest.Op) error {
		if at {
			return syscall.EIO
		}
		return nil
	}, after(disktest.Lost, false)},
}

// TestFaultTable: whatever fails at whatever step, the ledger stops with an error that
// names the file, or goes on; opened again, by the code that opens any ledger, it has
// every block that was acknowledged and goes on. The table of docs/design/faults.md is
// the outcome.
func TestFaultTable(t *testing.T) {
	w := &faultWorld{keyring: sealtest.Keyring(t), base: disktest.New()}
	l, err := w.open(w.base)
	if err != nil {
		t.Fatal(err)
	}
	commitFabric(t, l, faultBase)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	dry := w.base.Clone()
	dry.Fault(nil)
	if p := w.work(t, dry); p.err != nil || p.height != faultEnd {
		t.Fatalf("without a fault: %+v", p)
	}
	steps := len(dry.Ops())
	tb := &table{cells: map[[2]string]map[string]int{}}
	t.Run("steps", func(t *testing.T) {
		for _, f := range faults {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				for n := 1; n <= steps+2; n++ { // two more: the order of steps varies a little
					w.stepFault(t, tb, f, n)
				}
			})
		}
		t.Run("reads", func(t *testing.T) {
			t.Parallel()
			w.readFaults(t, tb)
		})
		t.Run("bits", func(t *testing.T) {
			t.Parallel()
			w.bitFaults(t, tb)
		})
	})
	checkFaultDoc(t, tb)
}

// stepFault has the n-th step that changes the disk go wrong.
func (w *faultWorld) stepFault(t *testing.T, tb *table, f fault, n int) {
	t.Helper()
	m := w.base.Clone()
	var step disktest.Op
	m.Fault(func(i int, op disktest.Op) error {
		here := i == n && step.Kind == "" && op.Changes()
		if here {
			step = op
		}
		return f.at(here, !here && step.Kind != "", op)
	})
	p := w.work(t, m)
	m.Fault(nil)
	if step.Kind == "" {
		return // the scenario had fewer steps this time
	}
	outcome := "g"
	if p.err != nil {
		outcome = "s"
		named := strings.Contains(p.err.Error(), faultDir)
		if !named && !errors.Is(p.err, errPower) {
			t.Errorf("step %d, %s %s: the error names no file: %v", n, step.Kind, step.Name, p.err)
		}
	}
	next := f.after(m)
	if err := w.recovered(t, next, p); err != nil {
		t.Errorf("step %d, %s %s, after %+v: %v", n, step.Kind, step.Name, p, err)
		return
	}
	// What the second process let readers see must survive a power failure after it.
	if f.name == "killed" || f.name == "EIO" {
		seen := m.Clone()
		l, err := w.open(seen)
		if err != nil {
			t.Errorf("step %d, %s %s: %v", n, step.Kind, step.Name, err)
			return
		}
		p.height = l.Height()
		if err := w.recovered(t, seen.AfterPowerFailure(disktest.Lost, false), p); err != nil {
			t.Errorf("step %d, %s %s, power failure after the restart: %v", n, step.Kind, step.Name, err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	tb.add(step.Kind+" "+kindOf(step.Name), f.name, outcome)
}

// readFaults has each file fail to be read, while a ledger is opened and read.
func (w *faultWorld) readFaults(t *testing.T, tb *table) {
	for _, name := range w.base.Names(faultDir) {
		m := w.base.Clone()
		hit := false
		m.Fault(func(_ int, op disktest.Op) error {
			if op.Name == name && op.Kind == "read" {
				hit = true
				return syscall.EIO
			}
			return nil
		})
		err := w.readAll(t, m)
		m.Fault(nil)
		if !hit {
			continue // LOCK has no content
		}
		if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s cannot be read: %v", name, err)
		}
		if err := w.recovered(t, m.Clone(), progress{height: faultBase}); err != nil {
			t.Errorf("%s could not be read for a while: %v", name, err)
		}
		tb.add("read "+kindOf(name), "EIO on read", "s")
	}
}

// bitFaults flips bits of each file.
func (w *faultWorld) bitFaults(t *testing.T, tb *table) {
	whole := w.base.Clone()
	for _, name := range whole.Names(faultDir) {
		var size int
		whole.Change(name, func(b []byte) []byte { size = len(b); return b })
		for k := range min(size, 48) {
			at := k
			if size > 48 && k >= 16 {
				at = 16 + (k-16)*(size-17)/31 // the first bytes, and places up to the last
			}
			m := w.base.Clone()
			m.Change(name, func(b []byte) []byte { b[at] ^= 1 << (k % 8); return b })
			err := w.readAll(t, m)
			outcome := "s"
			switch {
			case err == nil:
				// Of a journal's end that no store vouches for: applied again.
				outcome = "g"
			case !strings.Contains(err.Error(), filepath.Dir(name)):
				t.Errorf("%s, byte %d: the error names no file: %v", name, at, err)
			}
			tb.add("read "+kindOf(name), "bit flipped", outcome)
		}
	}
}

// readAll opens a ledger and reads all that it has; what it reads must be right.
func (w *faultWorld) readAll(t *testing.T, m *disktest.Memory) error {
	l, err := w.open(m)
	if err != nil {
		return err
	}
	defer l.Close() //nolint:errcheck // memory, and it was only read
	if l.Height() != faultBase {
		t.Fatalf("height is %d", l.Height())
	}
	for n := range uint64(faultBase) {
		b, err := l.readBlock(n)
		if err != nil {
			return err
		}
		if !bytes.Equal(b.Header.DataHash, fabricBlock(t, n).Header.DataHash) {
			t.Errorf("block %d is another", n)
		}
	}
	for _, s := range []*store{l.index.store, l.state, l.history, l.private.store} {
		rows := s.NewIterator(nil, nil)
		for rows.Next() {
		}
		rows.Release()
		if err := rows.Error(); err != nil {
			return fmt.Errorf("store %s: %w", s.dir, err)
		}
	}
	return nil
}

// checkFaultDoc holds the table against the document: what was seen must be there, and
// each row there must have been seen. Which of two outcomes a step has may depend on
// what ran beside it, so a cell may say more than one run shows.
func checkFaultDoc(t *testing.T, tb *table) {
	t.Helper()
	if t.Failed() {
		return
	}
	raw, err := os.ReadFile(faultDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(raw), tableBegin)
	documented, behind, ok2 := strings.Cut(rest, tableEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the table", faultDoc)
	}
	cases := 0
	seen := map[string]map[string]string{} // step → fault → letters
	for k, outcomes := range tb.cells {
		if seen[k[0]] == nil {
			seen[k[0]] = map[string]string{}
		}
		for _, o := range slices.Sorted(maps.Keys(outcomes)) {
			seen[k[0]][k[1]] += o
			cases += outcomes[o]
		}
	}
	t.Logf("%d rows, %d cells, %d cases", len(seen), len(tb.cells), cases)
	if *updateFaults {
		if err := os.WriteFile(faultDoc, []byte(before+tableBegin+faultRows(seen)+tableEnd+behind), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	rows := map[string][]string{}
	for line := range strings.Lines(documented) {
		cells := strings.Split(strings.Trim(line, "| \n"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows[cells[0]] = cells[1:]
	}
	if header := rows["step"]; !slices.Equal(header, faultColumns()) {
		t.Fatalf("%s has the columns %q, want %q", faultDoc, header, faultColumns())
	}
	delete(rows, "step")
	delete(rows, "---")
	for step, byFault := range seen {
		for i, f := range faultColumns() {
			for _, letter := range byFault[f] {
				if len(rows[step]) <= i || !strings.ContainsRune(rows[step][i], letter) {
					t.Errorf("%s: %q, %s: the outcome %c is not in the table; -update-faults writes it", faultDoc, step, f, letter)
				}
			}
		}
		delete(rows, step)
	}
	if strings.Contains(flag.Lookup("test.run").Value.String(), "/") {
		return // only some of the faults were tried
	}
	for step := range rows {
		t.Errorf("%s: nothing was seen of %q", faultDoc, step)
	}
}

func faultColumns() []string {
	var names []string
	for _, f := range faults {
		names = append(names, f.name)
	}
	return append(names, "EIO on read", "bit flipped")
}

func faultRows(seen map[string]map[string]string) string {
	var b strings.Builder
	line := func(step string, cells []string) { fmt.Fprintf(&b, "| %s | %s |\n", step, strings.Join(cells, " | ")) }
	line("step", faultColumns())
	b.WriteString(strings.Repeat("|---", 1+len(faultColumns())) + "|\n")
	for _, step := range slices.Sorted(maps.Keys(seen)) {
		cells := make([]string, len(faultColumns()))
		for i, f := range faultColumns() {
			cells[i] = seen[step][f]
		}
		line(step, cells)
	}
	return b.String()
}
