package endorsement

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/proto"

	"strongroom/acl"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
	"strongroom/wire/rwsetpb"
)

// InputSchema is the JSON Schema of the input that the rules see.
//
//go:embed input.schema.json
var InputSchema []byte

// maxInput bounds what a decision looks at: bytes of arguments, keys and values
// together. What is larger is refused.
const maxInput = 8 << 20

// Proposal is what a decision is about: a checked proposal and what its simulation
// led to. Nothing may change its slices while a decision is made.
type Proposal struct {
	ChannelID, TxID    string
	Chaincode, Version string
	Args               [][]byte // the function first
	Transient          []string // names of the transient fields; their values are never shown
	Caller             *msp.Identity
	RemoteAddr         string // for the record of the decision alone
	Response           *peerpb.Response
	Event              *peerpb.ChaincodeEvent // nil without one
	Set                *wire.ReadWriteSet
	Private            *rwsetpb.TxPvtReadWriteSet // nil without private writes
}

type pair = [2]*ast.Term

// encoder turns bytes into terms and counts them.
type encoder struct{ size int }

// Document is what rules see of a proposal and its result (input.schema.json). It gives
// the same document for the same proposal, whoever asks.
func Document(p *Proposal) (ast.Object, error) {
	if p.Caller == nil {
		return nil, errors.New("the proposal has no caller")
	}
	caller, err := acl.CallerTerm(p.Caller)
	if err != nil {
		return nil, err
	}
	var e encoder
	function, args, binary := e.arguments(p.Args)
	in := ast.NewObject(
		field("channel", str(p.ChannelID)),
		field("tx_id", str(p.TxID)),
		field("chaincode", ast.ObjectTerm(field("name", str(p.Chaincode)), field("version", str(p.Version)))),
		field("function", function),
		field("args", args),
		field("binary_args", binary),
		field("transient", e.texts(p.Transient)),
		field("caller", caller),
		field("response", e.response(p.Response)),
		field("event", e.event(p.Event)),
	)
	e.public(in, p.Set)
	if err := e.private(in, p.Private); err != nil {
		return nil, err
	}
	if e.size > maxInput {
		return nil, fmt.Errorf("the proposal's arguments, keys and values are larger than %d bytes: too much to judge", maxInput)
	}
	return in, nil
}

func field(name string, value *ast.Term) pair { return pair{ast.StringTerm(name), value} }

// str is a text; bytes that are not UTF-8 stand as base64, since a policy must not
// take two different keys for the same.
func str(s string) *ast.Term {
	if utf8.ValidString(s) {
		return ast.StringTerm(s)
	}
	return ast.StringTerm("base64:" + base64.StdEncoding.EncodeToString([]byte(s)))
}

func (e *encoder) text(s string) *ast.Term {
	e.size += len(s)
	return str(s)
}

func (e *encoder) texts(list []string) *ast.Term {
	terms := make([]*ast.Term, len(list))
	for i, s := range list {
		terms[i] = e.text(s)
	}
	return ast.ArrayTerm(terms...)
}

// arguments are the function and what follows it; binary lists the positions in args
// of those that are not UTF-8 and stand as base64 there. A function that is not UTF-8
// has the position -1.
func (e *encoder) arguments(in [][]byte) (function, args, binary *ast.Term) {
	function = ast.StringTerm("")
	var terms, positions []*ast.Term
	for i, b := range in {
		e.size += len(b)
		s := string(b)
		if !utf8.Valid(b) {
			s = base64.StdEncoding.EncodeToString(b)
			positions = append(positions, ast.IntNumberTerm(i-1))
		}
		if i == 0 {
			function = ast.StringTerm(s)
			continue
		}
		terms = append(terms, ast.StringTerm(s))
	}
	return function, ast.ArrayTerm(terms...), ast.ArrayTerm(positions...)
}

// value adds what the rules see of a value: always its size and digest, and itself
// where it is JSON.
func (e *encoder) value(o ast.Object, b []byte) {
	e.size += len(b)
	digest := sha256.Sum256(b)
	parsed, err := parseJSON(b)
	o.Insert(ast.StringTerm("size"), ast.IntNumberTerm(len(b)))
	o.Insert(ast.StringTerm("sha256"), ast.StringTerm(hex.EncodeToString(digest[:])))
	o.Insert(ast.StringTerm("json"), ast.BooleanTerm(err == nil))
	if err == nil {
		o.Insert(ast.StringTerm("value"), parsed)
	}
}

func (e *encoder) response(r *peerpb.Response) *ast.Term {
	o := ast.NewObject(
		field("status", ast.NumberTerm(number(int64(r.GetStatus())))),
		field("message", e.text(r.GetMessage())),
	)
	e.value(o, r.GetPayload())
	return ast.NewTerm(o)
}

func (e *encoder) event(ev *peerpb.ChaincodeEvent) *ast.Term {
	if ev == nil {
		return ast.NullTerm()
	}
	o := ast.NewObject(field("name", e.text(ev.GetEventName())))
	e.value(o, ev.GetPayload())
	return ast.NewTerm(o)
}

// public adds the read/write set: of private data only its hashes are in it.
func (e *encoder) public(in ast.Object, set *wire.ReadWriteSet) {
	var reads, ranges, writes, metadata, privateReads []*ast.Term
	if set != nil {
		for _, ns := range set.Namespaces {
			name := field("namespace", str(ns.Namespace))
			for _, r := range ns.KV.GetReads() {
				reads = append(reads, ast.ObjectTerm(name, field("key", e.text(r.GetKey())), field("version", version(r.GetVersion()))))
			}
			for _, q := range ns.KV.GetRangeQueriesInfo() {
				ranges = append(ranges, ast.ObjectTerm(name, field("start", e.text(q.GetStartKey())), field("end", e.text(q.GetEndKey())),
					field("exhausted", ast.BooleanTerm(q.GetItrExhausted()))))
			}
			for _, w := range ns.KV.GetWrites() {
				writes = append(writes, e.write(w, name))
			}
			for _, w := range ns.KV.GetMetadataWrites() {
				metadata = append(metadata, e.metadata(w, name))
			}
			for _, c := range ns.Collections {
				for _, r := range c.Hashed.GetHashedReads() {
					privateReads = append(privateReads, ast.ObjectTerm(name, field("collection", str(c.Collection)),
						field("key_sha256", ast.StringTerm(hex.EncodeToString(r.GetKeyHash()))), field("version", version(r.GetVersion()))))
				}
			}
		}
	}
	for _, f := range []struct {
		name  string
		terms []*ast.Term
	}{{"reads", reads}, {"range_reads", ranges}, {"writes", writes}, {"metadata_writes", metadata}, {"private_reads", privateReads}} {
		in.Insert(ast.StringTerm(f.name), ast.ArrayTerm(f.terms...))
	}
}

// private adds the private writes, which this peer knows in the clear.
func (e *encoder) private(in ast.Object, private *rwsetpb.TxPvtReadWriteSet) error {
	var writes, metadata []*ast.Term
	for _, ns := range private.GetNsPvtRwset() {
		for _, c := range ns.GetCollectionPvtRwset() {
			kv := new(kvrwsetpb.KVRWSet)
			if err := proto.Unmarshal(c.GetRwset(), kv); err != nil {
				return fmt.Errorf("private writes of %q in %q: %w", c.GetCollectionName(), ns.GetNamespace(), err)
			}
			place := []pair{field("namespace", str(ns.GetNamespace())), field("collection", str(c.GetCollectionName()))}
			for _, w := range kv.GetWrites() {
				writes = append(writes, e.write(w, place...))
			}
			for _, w := range kv.GetMetadataWrites() {
				metadata = append(metadata, e.metadata(w, place...))
			}
		}
	}
	in.Insert(ast.StringTerm("private_writes"), ast.ArrayTerm(writes...))
	in.Insert(ast.StringTerm("private_metadata_writes"), ast.ArrayTerm(metadata...))
	return nil
}

func (e *encoder) write(w *kvrwsetpb.KVWrite, place ...pair) *ast.Term {
	o := ast.NewObject(place...)
	o.Insert(ast.StringTerm("key"), e.text(w.GetKey()))
	o.Insert(ast.StringTerm("is_delete"), ast.BooleanTerm(w.GetIsDelete()))
	e.value(o, w.GetValue())
	return ast.NewTerm(o)
}

// metadata shows which metadata of a key is set; its endorsement policy is named
// VALIDATION_PARAMETER. No entries means that all of it is removed.
func (e *encoder) metadata(w *kvrwsetpb.KVMetadataWrite, place ...pair) *ast.Term {
	var names []string
	for _, entry := range w.GetEntries() {
		names = append(names, entry.GetName())
		e.size += len(entry.GetValue())
	}
	slices.Sort(names)
	o := ast.NewObject(place...)
	o.Insert(ast.StringTerm("key"), e.text(w.GetKey()))
	o.Insert(ast.StringTerm("names"), e.texts(names))
	o.Insert(ast.StringTerm("endorsement"), e.endorsement(w))
	return ast.NewTerm(o)
}

// endorsement shows the endorsement policy that a key is given: who must sign what is
// written to it from then on. It is empty where none is given, or one that does not compile, which
// nobody can satisfy.
func (e *encoder) endorsement(w *kvrwsetpb.KVMetadataWrite) *ast.Term {
	rule, named, needed := "", []string(nil), []string(nil)
	for _, entry := range w.GetEntries() {
		env := new(commonpb.SignaturePolicyEnvelope)
		if entry.GetName() != peerpb.MetaDataKeys_VALIDATION_PARAMETER.String() || len(entry.GetValue()) == 0 || proto.Unmarshal(entry.GetValue(), env) != nil {
			continue
		}
		var err error
		if named, needed, err = policy.Organizations(env); err == nil {
			rule = policy.Describe(env)
		}
	}
	return ast.ObjectTerm(field("rule", e.text(rule)), field("named", e.texts(named)), field("needed", e.texts(needed)))
}

// version is null for a key that was not there.
func version(v *kvrwsetpb.Version) *ast.Term {
	if v == nil {
		return ast.NullTerm()
	}
	return ast.ObjectTerm(
		field("block", ast.NumberTerm(unsigned(v.GetBlockNum()))),
		field("tx", ast.NumberTerm(unsigned(v.GetTxNum()))),
	)
}

func number(n int64) json.Number { return json.Number(strconv.FormatInt(n, 10)) }

func unsigned(n uint64) json.Number { return json.Number(strconv.FormatUint(n, 10)) }
