package lifecycle

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/lifecyclepb"
	"strongroom/wire/peerpb"
)

// memory is a state in memory that notes what is read and what is written.
type memory struct {
	values map[string][]byte
	reads  map[string]bool
	writes map[string][]byte
}

func newMemory() *memory {
	return &memory{values: map[string][]byte{}, reads: map[string]bool{}, writes: map[string][]byte{}}
}

func (m *memory) Get(_, key string) ([]byte, error) {
	m.reads[key] = true
	return m.values[key], nil
}

func (m *memory) Put(_, key string, value []byte) error {
	m.writes[key] = value
	return nil
}

func (m *memory) Delete(_, key string) error {
	m.writes[key] = nil
	return nil
}

func (m *memory) Range(_, start, end string, each func(string, []byte) error) error {
	var keys []string
	for key := range m.values {
		if key >= start && key < end {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		if err := each(key, m.values[key]); err != nil {
			return err
		}
	}
	return nil
}

// apply makes the writes the state.
func (m *memory) apply() {
	for key, value := range m.writes {
		if value == nil {
			delete(m.values, key)
			continue
		}
		m.values[key] = value
	}
	m.reads, m.writes = map[string]bool{}, map[string][]byte{}
}

// collections is private state in memory: one memory for each collection.
type collections map[string]*memory

func (c collections) of(name string) *memory {
	if c[name] == nil {
		c[name] = newMemory()
	}
	return c[name]
}

func (c collections) GetPrivate(ns, coll, key string) ([]byte, error) {
	return c.of(coll).Get(ns, key)
}

func (c collections) PutPrivate(ns, coll, key string, value []byte) error {
	return c.of(coll).Put(ns, key, value)
}

func (c collections) DeletePrivate(ns, coll, key string) error { return c.of(coll).Delete(ns, key) }

func (c collections) PrivateHash(ns, coll, key string) ([]byte, error) {
	value, err := c.of(coll).Get(ns, key)
	if err != nil || value == nil {
		return nil, err
	}
	sum := sha256.Sum256(value)
	return sum[:], nil
}

// recorded is what one transaction of a real channel asked for and did.
type recorded struct {
	args       []byte
	reads      map[string]bool
	writes     map[string][]byte
	collection map[string]hashes
}

type hashes struct {
	reads  map[string]bool
	writes map[string]string
}

func readRecorded(t *testing.T, number int) recorded {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("block-%06d.pb", number)))
	if err != nil {
		t.Fatal(err)
	}
	message := &commonpb.Block{}
	if err := proto.Unmarshal(b, message); err != nil {
		t.Fatal(err)
	}
	block, err := wire.ParseBlock(message)
	if err != nil {
		t.Fatal(err)
	}
	endorsed := block.Txs[0].Endorsed
	payload, invocation := &peerpb.ChaincodeProposalPayload{}, &peerpb.ChaincodeInvocationSpec{}
	if err := errors.Join(proto.Unmarshal(endorsed.ProposalPayload, payload), proto.Unmarshal(payload.Input, invocation)); err != nil {
		t.Fatal(err)
	}
	r := recorded{
		args:  invocation.ChaincodeSpec.Input.Args[1],
		reads: map[string]bool{}, writes: map[string][]byte{}, collection: map[string]hashes{},
	}
	for _, ns := range endorsed.ReadWriteSet.Namespaces {
		if ns.Namespace != Namespace {
			continue
		}
		for _, read := range ns.KV.Reads {
			r.reads[read.Key] = true
		}
		for _, write := range ns.KV.Writes {
			r.writes[write.Key] = write.Value
		}
		for _, c := range ns.Collections {
			h := hashes{reads: map[string]bool{}, writes: map[string]string{}}
			for _, read := range c.Hashed.HashedReads {
				h.reads[hex.EncodeToString(read.KeyHash)] = true
			}
			for _, write := range c.Hashed.HashedWrites {
				h.writes[hex.EncodeToString(write.KeyHash)] = hex.EncodeToString(write.ValueHash)
			}
			r.collection[c.Collection] = h
		}
	}
	return r
}

// hashed is what m read and wrote, as a read/write set tells it of a collection.
func (m *memory) hashed() hashes {
	sum := func(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }
	h := hashes{reads: map[string]bool{}, writes: map[string]string{}}
	for key := range m.reads {
		h.reads[sum([]byte(key))] = true
	}
	for key, value := range m.writes {
		h.writes[sum([]byte(key))] = sum(value)
	}
	return h
}

// TestFabricVectors repeats the definition of chaincode kv on a real channel: what
// is read and written must be what Fabric's peers read and wrote.
func TestFabricVectors(t *testing.T) {
	public, private := newMemory(), collections{}
	allow := cmp.AllowUnexported(hashes{})
	for number, org := range map[int]string{1: "Org1MSP", 2: "Org2MSP"} {
		want := readRecorded(t, number)
		args := &lifecyclepb.ApproveChaincodeDefinitionForMyOrgArgs{}
		if err := proto.Unmarshal(want.args, args); err != nil {
			t.Fatal(err)
		}
		a := &Approval{
			Definition: Definition{
				Name: args.Name, Sequence: args.Sequence, Version: args.Version, InitRequired: args.InitRequired,
				EndorsementPlugin: EndorsementPlugin, ValidationPlugin: ValidationPlugin,
				ValidationParameter: args.ValidationParameter, Collections: args.Collections,
			},
			PackageID: args.GetSource().GetLocalPackage().GetPackageId(),
		}
		state := OrgState(private, org)
		if has, err := HasApproval(state, a.Definition.Name, a.Definition.Sequence); err != nil || has {
			t.Fatalf("%s has an approval already (%v)", org, err)
		}
		if err := WriteApproval(state, a); err != nil {
			t.Fatal(err)
		}
		got := private.of(ImplicitCollection(org))
		if diff := cmp.Diff(want.collection[ImplicitCollection(org)], got.hashed(), allow); diff != "" {
			t.Errorf("%s's approval (-Fabric +ours):\n%s", org, diff)
		}
		got.apply()
		back, err := ReadApproval(state, a.Definition.Name, a.Definition.Sequence)
		if err != nil {
			t.Fatal(err)
		}
		a.Definition.Collections = orEmpty(a.Definition.Collections)
		if diff := cmp.Diff(a, back, protocmp.Transform()); diff != "" {
			t.Errorf("approval read back (-want +got):\n%s", diff)
		}
		got.apply()
	}

	want := readRecorded(t, 3)
	args := &lifecyclepb.CommitChaincodeDefinitionArgs{}
	if err := proto.Unmarshal(want.args, args); err != nil {
		t.Fatal(err)
	}
	d := &Definition{
		Name: args.Name, Sequence: args.Sequence, Version: args.Version, InitRequired: args.InitRequired,
		EndorsementPlugin: EndorsementPlugin, ValidationPlugin: ValidationPlugin,
		ValidationParameter: args.ValidationParameter, Collections: args.Collections,
	}
	if sequence, err := ReadSequence(public, d.Name); err != nil || sequence != 0 {
		t.Fatalf("sequence is %d (%v), want 0", sequence, err)
	}
	for _, org := range []string{"Org1MSP", "Org2MSP"} {
		c, err := Compare(private, org, d)
		if err != nil {
			t.Fatal(err)
		}
		if !c.Agrees() || c.Mismatches() != nil {
			t.Errorf("%s does not agree: %v", org, c.Mismatches())
		}
		if diff := cmp.Diff(want.collection[ImplicitCollection(org)].reads, private.of(ImplicitCollection(org)).hashed().reads); diff != "" {
			t.Errorf("hashes read of %s (-Fabric +ours):\n%s", org, diff)
		}
	}
	if err := WriteDefinition(public, d); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.reads, public.reads); diff != "" {
		t.Errorf("reads of the commit (-Fabric +ours):\n%s", diff)
	}
	if diff := cmp.Diff(want.writes, public.writes); diff != "" {
		t.Errorf("writes of the commit (-Fabric +ours):\n%s", diff)
	}
	public.apply()
	back, err := ReadDefinition(public, d.Name)
	if err != nil {
		t.Fatal(err)
	}
	if !back.SameParameters(d) || back.Sequence != 1 || back.Name != "kv" {
		t.Errorf("definition read back is %+v, want %+v", back, d)
	}
	names, err := Names(public)
	if err != nil || !slices.Equal(names, []string{"kv"}) {
		t.Errorf("names are %q (%v), want kv", names, err)
	}
}

func TestRedefinitionWritesWhatChanges(t *testing.T) {
	m := newMemory()
	d := &Definition{Name: "cc", Sequence: 1, Version: "1", EndorsementPlugin: EndorsementPlugin, ValidationPlugin: ValidationPlugin, ValidationParameter: []byte("p")}
	if err := WriteDefinition(m, d); err != nil {
		t.Fatal(err)
	}
	m.apply()
	d.Sequence, d.Version = 2, "2"
	if err := WriteDefinition(m, d); err != nil {
		t.Fatal(err)
	}
	var got []string
	for key := range m.writes {
		got = append(got, key)
	}
	slices.Sort(got)
	want := []string{"namespaces/fields/cc/EndorsementInfo", "namespaces/fields/cc/Sequence"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys written (-want +got):\n%s", diff)
	}
}

func TestWriteDropsFormerFields(t *testing.T) {
	m := newMemory()
	old, err := stringField("Former", "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := (&record{datatype: "Old", fields: []field{old}}).write(m, namespaces, "cc"); err != nil {
		t.Fatal(err)
	}
	m.apply()
	if err := WriteDefinition(m, &Definition{Name: "cc", Sequence: 1}); err != nil {
		t.Fatal(err)
	}
	if value, ok := m.writes["namespaces/fields/cc/Former"]; !ok || value != nil {
		t.Errorf("the former field is not deleted")
	}
	m.apply()
	if _, err := ReadDefinition(m, "cc"); err != nil {
		t.Error(err)
	}
}

func TestCompareTellsWhatDiffers(t *testing.T) {
	private := collections{}
	d := Definition{Name: "cc", Sequence: 1, Version: "1", ValidationParameter: []byte("p")}
	if err := WriteApproval(OrgState(private, "Org1MSP"), &Approval{Definition: d}); err != nil {
		t.Fatal(err)
	}
	private.of(ImplicitCollection("Org1MSP")).apply()
	for _, test := range []struct {
		change func(*Definition)
		want   int
	}{
		{func(d *Definition) {}, 0},
		{func(d *Definition) { d.Version = "2" }, 1},
		{func(d *Definition) { d.ValidationParameter = nil }, 1},
		{func(d *Definition) { d.Version, d.ValidationPlugin = "2", "x" }, 2},
		{func(d *Definition) {
			d.Collections = &peerpb.CollectionConfigPackage{Config: []*peerpb.CollectionConfig{{}}}
		}, 1},
		{func(d *Definition) { d.Sequence = 2; d.Version = "2" }, 1},
	} {
		changed := d
		test.change(&changed)
		c, err := Compare(private, "Org1MSP", &changed)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(c.Mismatches()); got != test.want || c.Agrees() != (test.want == 0) {
			t.Errorf("%+v: mismatches %q, want %d", changed, c.Mismatches(), test.want)
		}
	}
}

func TestReadDefinitionRefuses(t *testing.T) {
	mustField := func(f field, err error) field {
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for name, test := range map[string]struct {
		fill func(*memory)
		want error
	}{
		"nothing":       {func(*memory) {}, ErrNotDefined},
		"not a message": {func(m *memory) { m.values["namespaces/metadata/cc"] = []byte{0xff} }, ErrMalformed},
		"another type": {func(m *memory) {
			_ = (&record{datatype: "Token"}).write(m, namespaces, "cc")
			m.apply()
		}, ErrMalformed},
		"sequence is a string": {func(m *memory) {
			r := &record{datatype: typeDefinition, fields: []field{mustField(stringField(fieldSequence, "1"))}}
			_ = r.write(m, namespaces, "cc")
			m.apply()
		}, ErrMalformed},
		"collections are garbage": {func(m *memory) {
			r := &record{datatype: typeDefinition, fields: []field{mustField(dataField(fieldCollections,
				&lifecyclepb.StateData{Type: &lifecyclepb.StateData_Bytes{Bytes: []byte{0xff}}}))}}
			_ = r.write(m, namespaces, "cc")
			m.apply()
		}, ErrMalformed},
	} {
		m := newMemory()
		test.fill(m)
		if _, err := ReadDefinition(m, "cc"); !errors.Is(err, test.want) {
			t.Errorf("%s: error is %v, want %v", name, err, test.want)
		}
	}
	if _, err := ReadApproval(newMemory(), "cc", 1); !errors.Is(err, ErrNotApproved) {
		t.Errorf("error is %v, want %v", err, ErrNotApproved)
	}
}

func TestKeyNames(t *testing.T) {
	for key, want := range map[string]string{
		"namespaces/metadata/kv":              "kv",
		"namespaces/fields/kv/Sequence":       "kv",
		"namespaces/fields/a/b/Sequence":      "a/b",
		"namespaces/fields/kv":                "",
		"chaincode-sources/metadata/kv#1":     "",
		"unrelated-key":                       "",
		"namespaces/metadata/with/slash":      "with/slash",
		"namespaces/fields/kv/Sequence/other": "kv/Sequence",
	} {
		if got, ok := DefinedBy(key); got != want || ok != (want != "") {
			t.Errorf("key %q is of %q (%v), want %q", key, got, ok, want)
		}
	}
	if org, ok := ImplicitOrg(ImplicitCollection("Org1MSP")); !ok || org != "Org1MSP" {
		t.Errorf("implicit collection is of %q", org)
	}
	for _, collection := range []string{"_implicit_org_", "mine", ""} {
		if _, ok := ImplicitOrg(collection); ok {
			t.Errorf("collection %q is taken for an implicit one", collection)
		}
	}
}

func FuzzReadDefinition(f *testing.F) {
	m := newMemory()
	if err := WriteDefinition(m, &Definition{Name: "cc", Sequence: 1, Version: "1"}); err != nil {
		f.Fatal(err)
	}
	f.Add(m.writes["namespaces/metadata/cc"], m.writes["namespaces/fields/cc/Sequence"], m.writes["namespaces/fields/cc/EndorsementInfo"])
	f.Fuzz(func(t *testing.T, metadata, sequence, info []byte) {
		m := newMemory()
		m.values["namespaces/metadata/cc"] = metadata
		m.values["namespaces/fields/cc/Sequence"] = sequence
		for _, name := range []string{fieldEndorsement, fieldValidation, fieldCollections} {
			m.values["namespaces/fields/cc/"+name] = info
		}
		d, err := ReadDefinition(m, "cc")
		if err == nil && !d.SameParameters(d) {
			t.Error("a definition differs from itself")
		}
		if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrNotDefined) {
			t.Errorf("error %v is neither of the two kinds", err)
		}
	})
}
