package ordering

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCutter gives sizes of entries and wants the batches, then what still gathers.
func TestCutter(t *testing.T) {
	tests := []struct {
		name      string
		limits    limits
		sizes     []uint32
		batches   [][]uint32
		gathering []uint32
	}{
		{"below all limits", limits{10, 100}, []uint32{10, 20}, nil, []uint32{10, 20}},
		{"count", limits{3, 100}, []uint32{1, 2, 3, 4}, [][]uint32{{1, 2, 3}}, []uint32{4}},
		{"count of one", limits{1, 100}, []uint32{5, 6}, [][]uint32{{5}, {6}}, nil},
		{"bytes exactly", limits{10, 100}, []uint32{60, 40, 1}, [][]uint32{{60, 40}}, []uint32{1}},
		{"bytes over", limits{10, 100}, []uint32{60, 41}, [][]uint32{{60}}, []uint32{41}},
		{"oversized alone", limits{10, 100}, []uint32{101}, [][]uint32{{101}}, nil},
		{"oversized after others", limits{10, 100}, []uint32{5, 6, 101, 7}, [][]uint32{{5, 6}, {101}}, []uint32{7}},
		{"as large as preferred", limits{10, 100}, []uint32{100, 1}, [][]uint32{{100}}, []uint32{1}},
		{"over and then count", limits{1, 100}, []uint32{100, 100}, [][]uint32{{100}, {100}}, nil},
		{"two batches at once", limits{2, 100}, []uint32{99, 50, 50}, [][]uint32{{99}, {50, 50}}, nil},
		{"empty envelopes", limits{2, 100}, []uint32{0, 0}, [][]uint32{{0, 0}}, nil},
		{"no overflow at the top", limits{10, 1<<32 - 1}, []uint32{1<<32 - 1, 1<<32 - 1}, [][]uint32{{1<<32 - 1}}, []uint32{1<<32 - 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c cutter
			var batches [][]uint32
			for i, size := range tt.sizes {
				for _, b := range c.add(entry{position: uint64(i), size: size}, tt.limits) {
					batches = append(batches, sizes(b))
				}
			}
			if diff := cmp.Diff(tt.batches, batches); diff != "" {
				t.Errorf("batches: %s", diff)
			}
			if diff := cmp.Diff(tt.gathering, sizes(c.cut())); diff != "" {
				t.Errorf("gathering: %s", diff)
			}
		})
	}
}

func sizes(b []entry) []uint32 {
	var all []uint32
	for _, e := range b {
		all = append(all, e.size)
	}
	return all
}

func TestPendingEntry(t *testing.T) {
	env := []byte{0x0a, 3, 'a', 'b', 'c', 0x12, 1, 's'}
	e, err := decodeEntry(7, encodeEntry(configEntry, 9, env))
	if err != nil {
		t.Fatal(err)
	}
	if e.position != 7 || e.kind != configEntry || e.sequence != 9 || e.size != 4 || string(e.raw) != string(env) {
		t.Errorf("entry is %+v", e)
	}
	for _, bad := range [][]byte{nil, make([]byte, 8), append([]byte{3}, make([]byte, 8)...), append([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0}, 0xff)} {
		if _, err := decodeEntry(1, bad); err == nil {
			t.Errorf("%x decodes", bad)
		}
	}
}

func TestUsedUp(t *testing.T) {
	for _, u := range []usedUp{0, 1, 1<<64 - 1} {
		got, err := parseUsedUp(u.marshal())
		if err != nil || got != u {
			t.Errorf("%d is read as %d, %v", u, got, err)
		}
	}
	for _, bad := range []string{"x", "raft metadata", "\x53234567"} {
		if _, err := parseUsedUp([]byte(bad)); err == nil {
			t.Errorf("%q is taken for ours", bad)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add(encodeEntry(normalEntry, 1, []byte{0x0a, 1, 'a'}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(1, b)
		if err == nil && fmt.Sprintf("%x", encodeEntry(e.kind, e.sequence, e.raw)) != fmt.Sprintf("%x", b) {
			t.Errorf("%x is written again otherwise", b)
		}
	})
}
