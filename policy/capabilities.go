package policy

import (
	"context"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

// ledgerBuiltins are what generated Rego uses: nothing else can be called there.
var ledgerBuiltins = []string{
	"assign", "eq", "equal", "gte", "min", "minus", "or", "sum",
}

// teamBuiltins are what a team's own Rego may call. It is a list of what is
// allowed, not of what is forbidden: OPA flags most functions that are not
// deterministic, but not those that read the host's clock while verifying
// certificates or its time zone files. Left out on purpose: time, random numbers,
// the network and HTTP, tokens and certificates (the token verifies, before a
// policy sees a fact), the runtime's environment, and whatever makes large values
// from small input (numbers.range, multiplication, walk, graph functions).
var teamBuiltins = []string{
	// comparison and assignment
	"assign", "eq", "equal", "neq", "lt", "lte", "gt", "gte",
	"internal.member_2", "internal.member_3",
	// whole numbers and aggregates
	"plus", "minus", "abs", "count", "sum", "max", "min", "sort", "to_number",
	// sets, arrays, objects
	"and", "or", "intersection", "union",
	"array.concat", "array.reverse", "array.slice",
	"object.filter", "object.get", "object.keys", "object.remove", "object.subset", "object.union",
	// strings
	"concat", "contains", "endswith", "format_int", "indexof", "lower", "replace", "split", "sprintf", "startswith",
	"strings.any_prefix_match", "strings.any_suffix_match", "strings.count", "strings.reverse", "substring",
	"trim", "trim_left", "trim_prefix", "trim_right", "trim_space", "trim_suffix", "upper",
	"internal.template_string",
	// patterns: regular expressions are RE2, linear in their input
	"glob.match", "glob.quote_meta", "regex.is_valid", "regex.match", "net.cidr_contains", "net.cidr_is_valid",
	// kinds of values
	"is_array", "is_boolean", "is_null", "is_number", "is_object", "is_set", "is_string", "type_name",
	// dropped unless a test prints; written by the compiler for tests
	"internal.print", "internal.test_case", "print",
}

func allow(names []string) func() *ast.Capabilities {
	return sync.OnceValue(func() *ast.Capabilities {
		allowed := make(map[string]bool, len(names))
		for _, n := range names {
			allowed[n] = true
		}
		c := ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(ast.RegoV1))
		kept := make([]*ast.Builtin, 0, len(names))
		for _, b := range c.Builtins {
			if allowed[b.Name] {
				kept = append(kept, b)
			}
		}
		c.Builtins = kept
		c.AllowNet = []string{}
		return c
	})
}

var (
	ledgerCapabilities = allow(ledgerBuiltins)
	teamCapabilities   = allow(teamBuiltins)
)

// data is the document that policies see as data besides their own rules, empty but
// for those of a bundle, under one read transaction that lives as long as it: nothing ever writes.
type data struct {
	store storage.Store
	txn   storage.Transaction
}

func newData(document map[string]any) (*data, error) {
	store := newStore(document)
	txn, err := store.NewTransaction(context.Background())
	if err != nil {
		return nil, err
	}
	return &data{store: store, txn: txn}, nil
}

func newStore(document map[string]any) storage.Store {
	if len(document) == 0 {
		return inmem.New()
	}
	return inmem.NewFromObjectWithOpts(document, inmem.OptReturnASTValuesOnRead(true))
}
