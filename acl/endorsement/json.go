package endorsement

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Bounds of a value that the rules see as JSON.
const (
	maxDepth  = 64
	maxDigits = 64 // of a number as written: longer ones are for no rule to compare
)

var errAmbiguous = errors.New("not JSON that everybody reads alike")

// parseJSON reads a value strictly. JSON that two readers may take differently (a name
// twice in one object, text that is not UTF-8, something after the end, huge numbers)
// is not JSON for a policy: the chaincode might have read the other meaning.
func parseJSON(b []byte) (*ast.Term, error) {
	if !utf8.Valid(b) {
		return nil, errAmbiguous
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	t, err := parseValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errAmbiguous
	}
	return t, nil
}

func parseValue(dec *json.Decoder, depth int) (*ast.Term, error) {
	if depth > maxDepth {
		return nil, errAmbiguous
	}
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch v := token.(type) {
	case nil:
		return ast.NullTerm(), nil
	case bool:
		return ast.BooleanTerm(v), nil
	case string:
		return ast.StringTerm(v), nil
	case json.Number:
		if len(v) > maxDigits || largeExponent(v) {
			return nil, errAmbiguous
		}
		return ast.NumberTerm(v), nil
	case json.Delim:
		if v == '[' {
			return parseArray(dec, depth)
		}
		return parseObject(dec, depth)
	}
	return nil, fmt.Errorf("%w: %v", errAmbiguous, token)
}

// largeExponent tells whether a number is written with an exponent of more than three
// digits, which arithmetic would write out.
func largeExponent(n json.Number) bool {
	i := bytes.LastIndexAny([]byte(n), "eE")
	return i >= 0 && len(n)-i > 5
}

func parseArray(dec *json.Decoder, depth int) (*ast.Term, error) {
	var terms []*ast.Term
	for dec.More() {
		t, err := parseValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		terms = append(terms, t)
	}
	_, err := dec.Token() // the closing bracket
	return ast.ArrayTerm(terms...), err
}

func parseObject(dec *json.Decoder, depth int) (*ast.Term, error) {
	o := ast.NewObject()
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, ok := token.(string)
		if !ok {
			return nil, errAmbiguous
		}
		key := ast.StringTerm(name)
		if o.Get(key) != nil {
			return nil, errAmbiguous
		}
		value, err := parseValue(dec, depth+1)
		if err != nil {
			return nil, err
		}
		o.Insert(key, value)
	}
	_, err := dec.Token() // the closing brace
	return ast.NewTerm(o), err
}
