package channel

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"strongroom/bccsp/bccsptest"
	"strongroom/channel/configtx"
	"strongroom/channel/lifecycle"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/policy/policytest"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/msppb"
	"strongroom/wire/peerpb"
)

var comparisons = flag.Int("comparisons", 12_000, "transactions that TestDifferential compares")

// TestDifferential holds the verdicts of Judge against a plain second telling of
// Fabric's rules on which policy decides: a key's own, its collection's, an implicit
// collection's, the chaincode's, and that of definitions; on random chains of
// definitions, key policies and transactions. The policies themselves are decided by
// policytest, from their messages. Neither shares code with what it tests.
func TestDifferential(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d transactions", seed, *comparisons)
	w := newWorld(t, rand.New(rand.NewPCG(seed, 9)))
	v := NewValidator(w.engine, 4)
	defer v.Close()
	counts, asked := map[code]int{}, map[string]int{}
	for done := 0; done < *comparisons; {
		w.renew()
		for range 20 {
			facts := w.block()
			v.definitions = &definitions{}
			j, err := v.Judge(t.Context(), facts, w)
			if err != nil {
				t.Fatal(err)
			}
			o := &keyOracle{world: w, facts: facts, asked: asked}
			want := o.block()
			if diff := cmp.Diff(want, j.Flags()); diff != "" {
				t.Fatalf("(-oracle +judge):\n%s\n%v", diff, j.Verdicts)
			}
			for _, c := range want {
				counts[c]++
			}
			done += len(want)
		}
	}
	t.Log(counts, asked)
	for _, c := range []code{valid, peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE, peerpb.TxValidationCode_INVALID_CHAINCODE} {
		if counts[c] < *comparisons/50 {
			t.Errorf("only %d transactions are %s", counts[c], c)
		}
	}
	for _, rule := range []string{"key", "key of a collection", "collection", "implicit collection", "chaincode", "definitions", "changed in the block"} {
		if asked[rule] < *comparisons/200 {
			t.Errorf("the rule of %q decided only %d times", rule, asked[rule])
		}
	}
}

// world is a channel whose policies, definitions and key policies are random: the
// State that Judge reads, and what the oracle knows.
type world struct {
	*rand.Rand
	t      *testing.T
	engine *policy.Engine
	set    *msp.Set
	people []*msp.Identity
	source *policytest.Source

	root        *commonpb.ConfigGroup
	config      *configtx.Config
	state       map[string][]byte // of `_lifecycle`
	definitions map[string]*lifecycle.Definition
	keys        map[stateKey][]byte // own policies
	next        int                 // transaction
}

var worldOrganisations = []string{"Org1MSP", "Org2MSP", "Org3MSP"}

func newWorld(t *testing.T, r *rand.Rand) *world {
	t.Helper()
	token := bccsptest.Open(t)
	engine, err := policy.NewEngine(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Rand: r, t: t, engine: engine}
	var configs []*msppb.MSPConfig
	var cas []*bccsptest.CA
	for _, org := range worldOrganisations {
		ca := bccsptest.NewCA(t, token, org)
		cas, configs = append(cas, ca), append(configs, ca.MSPConfig())
	}
	if w.set, err = msp.NewSet(t.Context(), token, configs); err != nil {
		t.Fatal(err)
	}
	w.source = &policytest.Source{Rand: r}
	for i, ca := range cas {
		for _, unit := range []string{"peer", "peer", "admin", "client"} {
			id, err := w.set.Identity(t.Context(), ca.Issue(t, fmt.Sprintf("%s%d", unit, len(w.people)), unit).Serialized())
			if err != nil {
				t.Fatal(err)
			}
			w.people = append(w.people, id)
		}
		for _, role := range []commonpb.MSPRole_MSPRoleType{commonpb.MSPRole_MEMBER, commonpb.MSPRole_PEER, commonpb.MSPRole_ADMIN} {
			b, err := proto.Marshal(&commonpb.MSPRole{MspIdentifier: worldOrganisations[i], Role: role})
			if err != nil {
				t.Fatal(err)
			}
			w.source.Principals = append(w.source.Principals, &commonpb.MSPPrincipal{PrincipalClassification: commonpb.MSPPrincipal_ROLE, Principal: b})
		}
	}
	return w
}

// renew makes a new configuration with new definitions.
func (w *world) renew() {
	w.root = w.source.Group(worldOrganisations)
	tree, err := w.engine.Tree(w.set, w.root)
	if err != nil {
		w.t.Fatal(err)
	}
	w.config = &configtx.Config{ID: "main", MSPs: w.set, Policies: tree}
	for _, org := range worldOrganisations {
		w.config.Organizations = append(w.config.Organizations, configtx.Organization{Name: org, MSPID: msp.ID(org)})
	}
	w.state, w.definitions, w.keys = map[string][]byte{}, map[string]*lifecycle.Definition{}, map[stateKey][]byte{}
	for _, name := range []string{"cc1", "cc2", "cc3"} {
		d := &lifecycle.Definition{Name: name, Sequence: 1, Version: "1", ValidationPlugin: "vscc", Collections: &peerpb.CollectionConfigPackage{},
			ValidationParameter: w.source.Application(worldOrganisations)}
		if w.IntN(12) == 0 {
			d.ValidationPlugin = "" // Fabric takes such a chaincode for none
		}
		for _, c := range []string{"coll1", "coll2"} {
			s := &peerpb.StaticCollectionConfig{Name: c}
			if b := w.source.Application(worldOrganisations); w.IntN(2) == 0 {
				p := &peerpb.ApplicationPolicy{}
				if proto.Unmarshal(b, p) == nil {
					s.EndorsementPolicy = p
				}
			}
			d.Collections.Config = append(d.Collections.Config, &peerpb.CollectionConfig{Payload: &peerpb.CollectionConfig_StaticCollectionConfig{StaticCollectionConfig: s}})
		}
		w.definitions[name] = d
		if err := lifecycle.WriteDefinition(w, d); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, ns := range []string{"cc1", "cc2", "cc3", "_lifecycle"} {
		for _, collection := range []string{"", "coll1", "_implicit_org_Org1MSP"} {
			for range 3 {
				parameter := mustMarshal(w.t, w.source.Envelope())
				if w.IntN(15) == 0 {
					parameter = []byte{0xff}
				}
				w.keys[stateKey{ns, collection, w.key()}] = parameter
			}
		}
	}
}

func mustMarshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (w *world) key() string { return fmt.Sprintf("k%d", w.IntN(8)) }

// block is facts about twelve transactions whose signatures were checked already.
func (w *world) block() *Facts {
	facts := &Facts{Config: w.config, Block: &wire.Block{}}
	names := []string{"cc1", "cc2", "cc3", "_lifecycle", "nowhere"}
	for i := range 12 {
		w.next++
		called := names[min(w.IntN(13)/3, len(names)-1)]
		set := &wire.ReadWriteSet{}
		for _, n := range w.Perm(len(names) - 1) {
			if names[n] == called || w.IntN(6) == 0 {
				set.Namespaces = append(set.Namespaces, w.namespaceSet(names[n]))
			}
		}
		facts.Block.Txs = append(facts.Block.Txs, &wire.Tx{
			Index: i, ChannelHeader: &commonpb.ChannelHeader{TxId: fmt.Sprint(w.next), ChannelId: "main"},
			Endorsed: &wire.Endorsed{ChaincodeID: &peerpb.ChaincodeID{Name: called, Version: "1"}, ReadWriteSet: set},
		})
		var fact txFacts
		for _, p := range w.Perm(len(w.people))[:w.IntN(7)] {
			fact.signers = append(fact.signers, w.people[p])
		}
		facts.txs = append(facts.txs, fact)
	}
	return facts
}

func (w *world) namespaceSet(name string) wire.NamespaceSet {
	ns := wire.NamespaceSet{Namespace: name, KV: &kvrwsetpb.KVRWSet{}}
	for range w.IntN(3) {
		ns.KV.Writes = append(ns.KV.Writes, &kvrwsetpb.KVWrite{Key: w.key(), Value: []byte{1}})
	}
	if w.IntN(4) == 0 {
		ns.KV.MetadataWrites = append(ns.KV.MetadataWrites, &kvrwsetpb.KVMetadataWrite{Key: w.key()})
	}
	for _, collection := range []string{"coll1", "coll2", "none", "_implicit_org_Org1MSP", "_implicit_org_OtherMSP"} {
		if w.IntN(9) > 0 {
			continue
		}
		c := wire.CollectionSet{Collection: collection, Hashed: &kvrwsetpb.HashedRWSet{}}
		for range w.IntN(3) {
			c.Hashed.HashedWrites = append(c.Hashed.HashedWrites, &kvrwsetpb.KVWriteHash{KeyHash: []byte(w.key())})
		}
		if w.IntN(4) == 0 {
			c.Hashed.MetadataWrites = append(c.Hashed.MetadataWrites, &kvrwsetpb.KVMetadataWriteHash{KeyHash: []byte(w.key())})
		}
		ns.Collections = append(ns.Collections, c)
	}
	return ns
}

// The world as State and as lifecycle.Writer.

func (w *world) Get(namespace, key string) ([]byte, error) {
	if namespace != lifecycle.Namespace {
		return nil, nil
	}
	return w.state[key], nil
}

func (w *world) Put(_, key string, value []byte) error { w.state[key] = value; return nil }

func (w *world) Delete(_, key string) error { delete(w.state, key); return nil }

func (w *world) GetMetadata(namespace, key string) (map[string][]byte, error) {
	return w.PrivateMetadataByKeyHash(namespace, "", []byte(key))
}

func (w *world) PrivateMetadataByKeyHash(namespace, collection string, keyHash []byte) (map[string][]byte, error) {
	if p, ok := w.keys[stateKey{namespace, collection, string(keyHash)}]; ok {
		return map[string][]byte{"VALIDATION_PARAMETER": p}, nil
	}
	return nil, nil
}

func (w *world) HasTx(string) (bool, error) { return false, nil }

// keyOracle tells the codes of one block, one transaction after the other.
type keyOracle struct {
	*world
	facts   *Facts
	asked   map[string]int
	changed map[stateKey]bool
}

func (o *keyOracle) block() []code {
	o.changed = map[stateKey]bool{}
	var codes []code
	for i, tx := range o.facts.Block.Txs {
		signers := o.facts.txs[i].signers
		s := policytest.Signers{Count: len(signers), Satisfies: func(n int, p *commonpb.MSPPrincipal) bool {
			ok, err := o.set.Satisfies(signers[n], p)
			return ok && err == nil
		}}
		result := valid
		var changes []stateKey
		names := []string{tx.Endorsed.ChaincodeID.Name}
		for _, ns := range tx.Endorsed.ReadWriteSet.Namespaces {
			if public, hashed, metadata := keysWritten(ns); ns.Namespace != names[0] && len(public)+len(hashed)+len(metadata) > 0 {
				names = append(names, ns.Namespace)
			}
		}
		for _, name := range names {
			c, changed := o.namespace(name, tx.Endorsed.ReadWriteSet, s)
			if c == valid {
				changes = append(changes, changed...)
			}
			if result == valid {
				result = c
			}
		}
		for _, key := range changes {
			o.changed[key] = true
		}
		codes = append(codes, result)
	}
	return codes
}

// keysWritten are the keys whose public value, private value, or metadata is written.
func keysWritten(ns wire.NamespaceSet) (public, hashed, metadata []stateKey) {
	for _, w := range ns.KV.Writes {
		public = append(public, stateKey{ns.Namespace, "", w.Key})
	}
	for _, w := range ns.KV.MetadataWrites {
		metadata = append(metadata, stateKey{ns.Namespace, "", w.Key})
	}
	for _, c := range ns.Collections {
		for _, w := range c.Hashed.HashedWrites {
			hashed = append(hashed, stateKey{ns.Namespace, c.Collection, string(w.KeyHash)})
		}
		for _, w := range c.Hashed.MetadataWrites {
			metadata = append(metadata, stateKey{ns.Namespace, c.Collection, string(w.KeyHash)})
		}
	}
	return public, hashed, metadata
}

func (o *keyOracle) namespace(name string, set *wire.ReadWriteSet, s policytest.Signers) (code, []stateKey) {
	d := o.definitions[name]
	if name != lifecycle.Namespace && (d == nil || d.ValidationPlugin == "") {
		return peerpb.TxValidationCode_INVALID_CHAINCODE, nil
	}
	chaincode := func() bool {
		if d == nil {
			o.asked["definitions"]++
			held, err := policytest.Channel(o.root, "/Channel/Application/LifecycleEndorsement", s)
			if o.root.Groups["Application"].Policies["LifecycleEndorsement"] == nil {
				return o.members(len(worldOrganisations)/2+1, worldOrganisations, s)
			}
			return held && err == nil
		}
		o.asked["chaincode"]++
		held, err := policytest.Application(o.root, d.ValidationParameter, s)
		return held && err == nil
	}
	var all, metadata []stateKey
	for _, ns := range set.Namespaces {
		if ns.Namespace == name {
			var public, hashed []stateKey
			public, hashed, metadata = keysWritten(ns)
			all = slices.Concat(public, hashed, metadata)
		}
	}
	ok := true
	for _, key := range all {
		ok = ok && o.mayWrite(key, d, s, chaincode)
	}
	if len(all) == 0 {
		ok = chaincode()
	}
	if !ok {
		return peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE, nil
	}
	return valid, metadata
}

func (o *keyOracle) mayWrite(key stateKey, d *lifecycle.Definition, s policytest.Signers, chaincode func() bool) bool {
	if o.changed[key] {
		o.asked["changed in the block"]++
		return false
	}
	if own, ok := o.keys[key]; ok {
		o.asked["key"]++
		if key.collection != "" {
			o.asked["key of a collection"]++
		}
		env := &commonpb.SignaturePolicyEnvelope{}
		if proto.Unmarshal(own, env) != nil {
			return false
		}
		held, err := policytest.Signature(env, s, false)
		return held && err == nil
	}
	switch key.collection {
	case "":
		return chaincode()
	case "_implicit_org_Org1MSP":
		o.asked["implicit collection"]++
		if o.root.Groups["Application"].Groups["Org1MSP"].Policies["Endorsement"] == nil {
			return o.members(1, []string{"Org1MSP"}, s)
		}
		held, err := policytest.Channel(o.root, "/Channel/Application/Org1MSP/Endorsement", s)
		return held && err == nil
	}
	var c *peerpb.StaticCollectionConfig
	for _, config := range collectionsOf(d) {
		if config.GetStaticCollectionConfig().GetName() == key.collection {
			c = config.GetStaticCollectionConfig()
		}
	}
	switch {
	case c == nil:
		return false
	case c.EndorsementPolicy == nil:
		return chaincode()
	}
	o.asked["collection"]++
	held, err := policytest.Application(o.root, mustMarshal(o.t, c.EndorsementPolicy), s)
	return held && err == nil
}

// members tells whether n different signers are members of the organisations, one each.
func (o *keyOracle) members(n int, organisations []string, s policytest.Signers) bool {
	found := 0
	for _, org := range organisations {
		b := mustMarshal(o.t, &commonpb.MSPRole{MspIdentifier: org, Role: commonpb.MSPRole_MEMBER})
		for i := range s.Count {
			if s.Satisfies(i, &commonpb.MSPPrincipal{PrincipalClassification: commonpb.MSPPrincipal_ROLE, Principal: b}) {
				found++
				break
			}
		}
	}
	return found >= n
}

func collectionsOf(d *lifecycle.Definition) []*peerpb.CollectionConfig {
	if d == nil {
		return nil
	}
	return d.Collections.GetConfig()
}
