package selector

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/text/collate"
	"golang.org/x/text/language"
)

// kind is a JSON type, by CouchDB's order of types ("Views Collation"): null,
// false, true, numbers, strings, arrays, objects.
type kind int

const (
	null kind = iota
	no
	yes
	number
	text
	array
	object
)

func kindOf(v any) kind {
	switch v := v.(type) {
	case bool:
		if v {
			return yes
		}
		return no
	case json.Number:
		return number
	case string:
		return text
	case []any:
		return array
	case map[string]any:
		return object
	}
	return null
}

// String is the type's name as $type has it.
func (k kind) String() string {
	return [...]string{"null", "boolean", "boolean", "number", "string", "array", "object"}[k]
}

// equal tells whether two values are the same: numbers by what they are worth,
// strings by their bytes.
func equal(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		b, ok := b.(json.Number)
		return ok && (a == b || compareNumbers(a, b) == 0)
	case string:
		b, ok := b.(string)
		return ok && a == b
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, equal)
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, equal)
	}
	return kindOf(a) == kindOf(b)
}

// order compares values for one run of a query. It is not safe for concurrent use.
type order struct {
	ctx     context.Context
	strings *collate.Collator
	steps   uint
	err     error // why comparing ended; what was compared since means nothing
}

// newOrder collates strings by the root collation of the Unicode Collation
// Algorithm, as ICU does for CouchDB. The tables are those of the version of
// golang.org/x/text in go.mod.
func newOrder(ctx context.Context) *order {
	return &order{ctx: ctx, strings: collate.New(language.Und)}
}

// ended counts a step and tells whether to give up: long lists in a query and in a
// document can keep one row busy for longer than its transaction may run.
func (o *order) ended() bool {
	if o.steps++; o.steps%(1<<12) == 0 && o.err == nil && o.ctx.Err() != nil {
		o.err = context.Cause(o.ctx)
	}
	return o.err != nil
}

// compare orders two values. Strings that collate alike are ordered by their bytes,
// so that only equal values give 0. Raw compares strings by their bytes alone.
func (o *order) compare(a, b any, raw bool) int {
	ka, kb := kindOf(a), kindOf(b)
	if ka != kb {
		return cmp.Compare(ka, kb)
	}
	switch ka {
	case number:
		return compareNumbers(a.(json.Number), b.(json.Number))
	case text:
		return o.compareStrings(a.(string), b.(string), raw)
	case array: // element by element; a longer array follows its prefixes
		return slices.CompareFunc(a.([]any), b.([]any), func(x, y any) int { return o.compare(x, y, raw) })
	case object:
		return o.compareObjects(a.(map[string]any), b.(map[string]any), raw)
	}
	return 0
}

func (o *order) compareStrings(a, b string, raw bool) int {
	if !raw && a != b {
		if c := o.strings.CompareString(a, b); c != 0 {
			return c
		}
	}
	return strings.Compare(a, b)
}

// compareObjects compares name and value of each member until one differs; a
// larger object follows those it begins with. The members' order is that of their
// names: Fabric writes objects to CouchDB with sorted members.
func (o *order) compareObjects(a, b map[string]any, raw bool) int {
	return slices.CompareFunc(slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(b)), func(x, y string) int {
		if c := o.compareStrings(x, y, raw); c != 0 {
			return c
		}
		return o.compare(a[x], b[y], raw)
	})
}

// compareNumbers compares what two numbers are worth, whatever their size.
func compareNumbers(a, b json.Number) int {
	if x, ok := small(a); ok {
		if y, ok := small(b); ok {
			return cmp.Compare(x, y)
		}
	}
	x, y := newDecimal(a), newDecimal(b)
	if c := cmp.Compare(x.sign, y.sign); c != 0 || x.sign == 0 {
		return c
	}
	c := cmp.Compare(x.exponent, y.exponent)
	if c == 0 {
		c = strings.Compare(x.digits, y.digits)
	}
	return c * x.sign
}

// small is the value of a short integer.
func small(n json.Number) (int64, bool) {
	if len(n) > 18 {
		return 0, false
	}
	i, err := strconv.ParseInt(string(n), 10, 64)
	return i, err == nil
}

// decimal is sign × 0.digits × 10^exponent; digits begin and end with none of 0.
type decimal struct {
	sign     int
	digits   string
	exponent int64
}

// maxExponent stands for every larger exponent.
const maxExponent = math.MaxInt64 / 4

func newDecimal(n json.Number) decimal {
	s, d := string(n), decimal{sign: 1}
	if s, d.sign = strings.TrimPrefix(s, "-"), 1; len(s) < len(n) {
		d.sign = -1
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		e, err := strconv.ParseInt(s[i+1:], 10, 64)
		if err != nil && s[i+1] == '-' { // out of range, the only error that JSON's grammar leaves
			e = -maxExponent
		} else if err != nil {
			e = maxExponent
		}
		s, d.exponent = s[:i], min(max(e, -maxExponent), maxExponent)
	}
	whole, fraction, _ := strings.Cut(s, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	d.exponent += int64(len(digits) - len(fraction))
	if d.digits = strings.TrimRight(digits, "0"); d.digits == "" {
		return decimal{}
	}
	return d
}

// isInteger tells whether a number is written as an integer.
func isInteger(n json.Number) bool { return !strings.ContainsAny(string(n), ".eE") }
