package ledger

import (
	"bytes"
	"cmp"
	"slices"

	"strongroom/ledger/rwset"
	"strongroom/wire/kvrwsetpb"
)

func compare(a, b string) int { return cmp.Compare(a, b) }

// merged walks over the public keys of a range as they are after the earlier
// transactions of the block. When the query was not read to its end, its end key
// is the last key that was read and belongs to the range.
type merged struct {
	u       *updates
	ns, end string
	lastKey bool // the end key is still to be given

	before     rows
	beforeKey  string
	beforeItem *value // nil at the end
	keys       []string
}

func (u *updates) scan(ns string, query *kvrwsetpb.RangeQueryInfo) (*merged, error) {
	start, end := query.GetStartKey(), query.GetEndKey()
	m := &merged{u: u, ns: ns, end: end, lastKey: !query.GetItrExhausted(), before: u.before.rows(ns, start, end)}
	keys := u.keys(ns)
	from, _ := slices.BinarySearch(keys, start)
	to := len(keys)
	if end != "" {
		to, _ = slices.BinarySearch(keys, end)
	}
	if from < to {
		m.keys = keys[from:to]
	}
	if err := m.advance(); err != nil {
		m.before.close()
		return nil, err
	}
	return m, nil
}

func (m *merged) advance() (err error) {
	m.beforeKey, m.beforeItem, err = m.before.next()
	return err
}

// next returns the next key and its version, nil at the end.
func (m *merged) next() (string, *rwset.Height, error) {
	for m.beforeItem != nil || len(m.keys) > 0 {
		if len(m.keys) == 0 || m.beforeItem != nil && m.beforeKey < m.keys[0] {
			key, version := m.beforeKey, m.beforeItem.version
			if err := m.advance(); err != nil {
				return "", nil, err
			}
			return key, &version, nil
		}
		key := m.keys[0]
		m.keys = m.keys[1:]
		if m.beforeItem != nil && m.beforeKey == key {
			if err := m.advance(); err != nil {
				return "", nil, err
			}
		}
		if up := m.u.m[stateKey{ns: m.ns, key: key}]; !up.deleted {
			return key, &up.version, nil
		}
	}
	if !m.lastKey {
		return "", nil, nil
	}
	m.lastKey = false
	v, err := m.u.latest(stateKey{ns: m.ns, key: m.end})
	if err != nil || v == nil {
		return "", nil, err
	}
	return m.end, &v.version, nil
}

// rangeCurrent tells whether a range query would still give what it gave
// (validation/rangequery_validator.go). A summary that Fabric's peers would stop at
// without a verdict, such as one of degree 1, counts as a phantom.
func (u *updates) rangeCurrent(ns string, query *kvrwsetpb.RangeQueryInfo) (bool, error) {
	m, err := u.scan(ns, query)
	if err != nil {
		return false, err
	}
	defer m.before.close()
	if summary := query.GetReadsMerkleHashes(); summary != nil {
		return m.matchesSummary(summary)
	}
	return m.matchesReads(query.GetRawReads().GetKvReads())
}

func (m *merged) matchesReads(reads []*kvrwsetpb.KVRead) (bool, error) {
	for _, read := range reads {
		key, version, err := m.next()
		if err != nil || version == nil {
			return false, err
		}
		if key != read.GetKey() || !version.Is(read.GetVersion()) {
			return false, nil
		}
	}
	_, extra, err := m.next()
	return extra == nil, err
}

// matchesSummary builds the summary anew and stops at the first node of its
// highest level that differs.
func (m *merged) matchesSummary(want *kvrwsetpb.QueryReadsMerkleSummary) (bool, error) {
	reads, err := rwset.NewRangeReads(want.GetMaxDegree())
	if err != nil {
		return false, nil
	}
	matched := 0
	for {
		key, version, err := m.next()
		if err != nil {
			return false, err
		}
		if version == nil {
			break
		}
		if err := reads.Add(key, *version); err != nil {
			return false, err
		}
		got := reads.Summary()
		if got.MaxLevel < want.GetMaxLevel() || len(got.MaxLevelHashes) == matched {
			continue
		}
		if len(got.MaxLevelHashes) > len(want.GetMaxLevelHashes()) || matched >= len(got.MaxLevelHashes) ||
			!bytes.Equal(got.MaxLevelHashes[matched], want.GetMaxLevelHashes()[matched]) {
			return false, nil
		}
		matched++
	}
	_, got, err := reads.Done()
	if err != nil || got == nil {
		return false, err
	}
	return got.GetMaxDegree() == want.GetMaxDegree() && got.GetMaxLevel() == want.GetMaxLevel() &&
		slices.EqualFunc(got.GetMaxLevelHashes(), want.GetMaxLevelHashes(), bytes.Equal), nil
}
