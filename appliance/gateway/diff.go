package gateway

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
	"strongroom/wire/rwsetpb"
)

// maxDifferences bounds what one error detail says.
const maxDifferences = 4

// differences says in words where two proposal response payloads differ: it names
// namespaces, keys, versions, lengths and digests, and no value. It is for the reader
// of an error; that the payloads differ is decided on their bytes.
func differences(first, second []byte) string {
	a, errA := openPayload(first)
	b, errB := openPayload(second)
	if errA != nil || errB != nil {
		return "one of the payloads does not parse"
	}
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }

	if !bytes.Equal(a.proposalHash, b.proposalHash) {
		add("proposal hash %x against %x", a.proposalHash, b.proposalHash)
	}
	if x, y := a.action.GetChaincodeId(), b.action.GetChaincodeId(); x.GetVersion() != y.GetVersion() {
		add("chaincode version %q against %q", x.GetVersion(), y.GetVersion())
	}
	if x, y := a.action.GetResponse(), b.action.GetResponse(); !proto.Equal(x, y) {
		add("response of status %d with %s against status %d with %s", x.GetStatus(), brief(x.GetPayload()), y.GetStatus(), brief(y.GetPayload()))
	}
	if !bytes.Equal(a.action.GetEvents(), b.action.GetEvents()) {
		add("chaincode event of %s against %s", brief(a.action.GetEvents()), brief(b.action.GetEvents()))
	}
	for _, key := range union(a.entries, b.entries) {
		x, y := a.entries[key], b.entries[key]
		switch {
		case x == y:
		case x == "":
			add("%s only in the second", key)
		case y == "":
			add("%s only in the first", key)
		case a.shown[key] == b.shown[key]:
			add("%s: other bytes of the same length", key)
		default:
			add("%s %s against %s", key, a.shown[key], b.shown[key])
		}
	}
	if len(out) == 0 {
		return "the same content in other bytes"
	}
	if more := len(out) - maxDifferences; more > 0 {
		out = append(out[:maxDifferences], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, "; ")
}

// content is a payload taken apart: entries holds what is compared, shown what an
// error may say of it.
type content struct {
	proposalHash []byte
	action       *peerpb.ChaincodeAction
	entries      map[string]string
	shown        map[string]string
}

func openPayload(payload []byte) (*content, error) {
	var prp peerpb.ProposalResponsePayload
	if err := proto.Unmarshal(payload, &prp); err != nil {
		return nil, fmt.Errorf("proposal response payload: %w", err)
	}
	c := &content{proposalHash: prp.GetProposalHash(), action: &peerpb.ChaincodeAction{}, entries: map[string]string{}, shown: map[string]string{}}
	if err := proto.Unmarshal(prp.GetExtension(), c.action); err != nil {
		return nil, fmt.Errorf("chaincode action: %w", err)
	}
	var set rwsetpb.TxReadWriteSet
	if err := proto.Unmarshal(c.action.GetResults(), &set); err != nil {
		return nil, fmt.Errorf("read/write set: %w", err)
	}
	for _, ns := range set.GetNsRwset() {
		if err := c.addNamespace(ns); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// brief tells bytes apart without showing them: how many, and how their SHA-256 begins.
func brief(b []byte) string {
	sum := sha256.Sum256(b)
	return fmt.Sprintf("%d bytes (SHA-256 %x…)", len(b), sum[:8])
}

func (c *content) add(key, entry, shown string) {
	c.entries[key] = "=" + entry
	c.shown[key] = shown
}

func (c *content) addNamespace(ns *rwsetpb.NsReadWriteSet) error {
	var kv kvrwsetpb.KVRWSet
	if err := proto.Unmarshal(ns.GetRwset(), &kv); err != nil {
		return fmt.Errorf("read/write set of namespace %q: %w", ns.GetNamespace(), err)
	}
	name := ns.GetNamespace()
	for _, r := range kv.GetReads() {
		version := "absent"
		if v := r.GetVersion(); v != nil {
			version = fmt.Sprintf("at %d:%d", v.GetBlockNum(), v.GetTxNum())
		}
		c.add(fmt.Sprintf("read of %q in %q", r.GetKey(), name), version, version)
	}
	for _, w := range kv.GetWrites() {
		shown := "of " + brief(w.GetValue())
		if w.GetIsDelete() {
			shown = "(delete)"
		}
		c.add(fmt.Sprintf("write of %q in %q", w.GetKey(), name), shown+string(w.GetValue()), shown)
	}
	for _, m := range kv.GetMetadataWrites() {
		for _, e := range m.GetEntries() {
			c.add(fmt.Sprintf("metadata %q of %q in %q", e.GetName(), m.GetKey(), name), string(e.GetValue()), "of "+brief(e.GetValue()))
		}
	}
	for i, q := range kv.GetRangeQueriesInfo() {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(q)
		if err != nil {
			return fmt.Errorf("range query %d: %w", i, err)
		}
		c.add(fmt.Sprintf("range query %d in %q", i, name), string(b), fmt.Sprintf("from %q to %q", q.GetStartKey(), q.GetEndKey()))
	}
	for _, coll := range ns.GetCollectionHashedRwset() {
		c.add(fmt.Sprintf("private data of collection %q in %q", coll.GetCollectionName(), name),
			string(coll.GetPvtRwsetHash())+string(coll.GetHashedRwset()), fmt.Sprintf("hash %x", coll.GetPvtRwsetHash()))
	}
	return nil
}

func union(a, b map[string]string) []string {
	var keys []string
	for k := range a {
		keys = append(keys, k)
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}
