package ledger_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"strongroom/ledger"
	"strongroom/ledger/ledgertest"
	"strongroom/wire/peerpb"
)

// begin simulates on the present height without committing.
func begin(t *testing.T, l *ledger.Ledger, do func(s *ledger.Simulator)) []byte {
	t.Helper()
	s := simulate(t, l)
	do(s)
	raw, _, err := s.Results()
	ok(t, err)
	envelope, _ := ledgertest.Envelope(t, channelID, "kv", raw)
	return envelope
}

func metadataOf(t *testing.T, l *ledger.Ledger, key string) string {
	t.Helper()
	s, err := l.Snapshot()
	ok(t, err)
	defer s.Release()
	m, err := s.GetMetadata("kv", key)
	ok(t, err)
	return string(m["p"])
}

// A value keeps the key's metadata, metadata keeps the value, a delete takes both,
// and metadata for a key that is not there is dropped: over blocks, and within one.
func TestMetadataRules(t *testing.T) {
	put := func(v string) func(s *ledger.Simulator) {
		return func(s *ledger.Simulator) { ok(t, s.Put("kv", "k", []byte(v))) }
	}
	set := func(v string) func(s *ledger.Simulator) {
		return func(s *ledger.Simulator) { ok(t, s.SetMetadata("kv", "k", map[string][]byte{"p": []byte(v)})) }
	}
	remove := func(s *ledger.Simulator) { ok(t, s.SetMetadata("kv", "k", nil)) }
	del := func(s *ledger.Simulator) { ok(t, s.Delete("kv", "k")) }
	for name, test := range map[string]struct {
		steps           []func(s *ledger.Simulator)
		value, metadata string
	}{
		"value keeps metadata":        {[]func(s *ledger.Simulator){put("1"), set("m"), put("2")}, "2", "m"},
		"metadata keeps value":        {[]func(s *ledger.Simulator){put("1"), set("m"), set("n")}, "1", "n"},
		"metadata removed":            {[]func(s *ledger.Simulator){put("1"), set("m"), remove, put("2")}, "2", ""},
		"delete takes metadata":       {[]func(s *ledger.Simulator){put("1"), set("m"), del, put("2")}, "2", ""},
		"metadata of an absent key":   {[]func(s *ledger.Simulator){set("m"), put("1")}, "1", ""},
		"metadata of a deleted key":   {[]func(s *ledger.Simulator){put("1"), del, set("m")}, "", ""},
		"both in one transaction":     {[]func(s *ledger.Simulator){func(s *ledger.Simulator) { set("m")(s); put("1")(s) }}, "1", "m"},
		"delete and metadata in one":  {[]func(s *ledger.Simulator){put("1"), func(s *ledger.Simulator) { set("m")(s); del(s) }}, "", ""},
		"the last write of one wins":  {[]func(s *ledger.Simulator){func(s *ledger.Simulator) { put("1")(s); del(s); put("2")(s) }}, "2", ""},
		"an empty value is no value":  {[]func(s *ledger.Simulator){put("1"), put("")}, "", ""},
		"metadata of what was before": {[]func(s *ledger.Simulator){put("1"), set("m"), put("2"), set("n"), put("3")}, "3", "n"},
	} {
		for _, oneBlock := range []bool{false, true} {
			l := ledgertest.Open(t, channelID)
			var envelopes [][]byte
			for _, step := range test.steps {
				if oneBlock {
					envelopes = append(envelopes, begin(t, l, step))
				} else {
					run(t, l, step)
				}
			}
			if oneBlock {
				ledgertest.Commit(t, l, envelopes...)
			}
			s := simulate(t, l)
			if v, err := s.Get("kv", "k"); err != nil || string(v) != test.value {
				t.Errorf("%s (in one block: %t): value is %q, %v, want %q", name, oneBlock, v, err, test.value)
			}
			if got := metadataOf(t, l, "k"); got != test.metadata {
				t.Errorf("%s (in one block: %t): metadata is %q, want %q", name, oneBlock, got, test.metadata)
			}
		}
	}
}

// What one transaction of a block writes decides on the next one that read it.
func TestConflictRules(t *testing.T) {
	const (
		valid   = peerpb.TxValidationCode_VALID
		mvcc    = peerpb.TxValidationCode_MVCC_READ_CONFLICT
		phantom = peerpb.TxValidationCode_PHANTOM_READ_CONFLICT
	)
	get := func(key string) func(s *ledger.Simulator) {
		return func(s *ledger.Simulator) { ok(t, second(s.Get("kv", key))) }
	}
	// scan reads n keys of the range from k001 to k004; there are k000 to k005.
	scan := func(n int) func(s *ledger.Simulator) {
		return func(s *ledger.Simulator) {
			it, err := s.Range("kv", "k001", "k004")
			ok(t, err)
			read(t, it, n)
		}
	}
	put := func(key string) func(s *ledger.Simulator) {
		return func(s *ledger.Simulator) { ok(t, s.Put("kv", key, []byte("new"))) }
	}
	del := func(key string) func(s *ledger.Simulator) {
		return func(s *ledger.Simulator) { ok(t, s.Delete("kv", key)) }
	}
	set := func(key string) func(s *ledger.Simulator) {
		return func(s *ledger.Simulator) { ok(t, s.SetMetadata("kv", key, map[string][]byte{"p": {1}})) }
	}
	for name, test := range map[string]struct {
		write, read func(s *ledger.Simulator)
		want        peerpb.TxValidationCode
	}{
		"read of a written key":              {put("k001"), get("k001"), mvcc},
		"read of a deleted key":              {del("k001"), get("k001"), mvcc},
		"read of a key with new metadata":    {set("k001"), get("k001"), mvcc},
		"read of a key that came":            {put("new"), get("new"), mvcc},
		"read of a key that stays away":      {del("new"), get("new"), mvcc},
		"metadata that has no effect":        {set("new"), get("new"), valid},
		"read of another key":                {put("k002"), get("k001"), valid},
		"blind write":                        {put("k001"), put("k001"), valid},
		"whole range, a key came":            {put("k0015"), scan(9), phantom},
		"whole range, a key changed":         {put("k003"), scan(9), phantom},
		"whole range, a key went":            {del("k001"), scan(9), phantom},
		"whole range, its end changed":       {put("k004"), scan(9), valid},
		"whole range, outside":               {put("k0005"), scan(9), valid},
		"whole range, the last key it gave":  {del("k003"), scan(9), phantom},
		"range read in part, behind it":      {put("k003"), scan(2), valid},
		"range read in part, its last key":   {put("k002"), scan(2), phantom},
		"range read in part, last key went":  {del("k002"), scan(2), phantom},
		"range read in part, before it":      {put("k0005"), scan(2), valid},
		"range read in part, a key came":     {put("k0015"), scan(2), phantom},
		"range read to its last key exactly": {put("k0035"), scan(3), valid},
	} {
		for _, oneBlock := range []bool{false, true} {
			l := ledgertest.Open(t, channelID)
			fill(t, l, "kv", 6)
			late, first := begin(t, l, test.read), begin(t, l, test.write)
			var got []peerpb.TxValidationCode
			if oneBlock {
				got = ledgertest.Commit(t, l, first, late)
			} else {
				got = append(ledgertest.Commit(t, l, first), ledgertest.Commit(t, l, late)...)
			}
			want := test.want
			if name == "read of a key that stays away" && !oneBlock {
				want = valid // only within a block does a delete of nothing count
			}
			if diff := cmp.Diff([]peerpb.TxValidationCode{valid, want}, got); diff != "" {
				t.Errorf("%s (in one block: %t) (-want +got):\n%s", name, oneBlock, diff)
			}
		}
	}
}
