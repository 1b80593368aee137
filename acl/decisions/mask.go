package decisions

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"

	"strongroom/policy"
)

func newReader(b []byte) io.Reader { return bytes.NewReader(b) }

// apply masks the input and the result. The rules see path, input, result and bundles.
func (r *rendered) apply(mask *policy.Mask) error {
	event := fmt.Appendf(nil, `{"path":%s,"input":%s,"result":%s`, r.path, r.input, r.result)
	if r.bundles != nil {
		event = append(append(event, `,"bundles":`...), r.bundles...)
	}
	event = append(event, '}')
	value, err := ast.ValueFromReader(bytes.NewReader(event))
	if err != nil {
		return err
	}
	rules, err := mask.Rules(context.Background(), value)
	if err != nil || len(rules) == 0 {
		return err
	}
	var document map[string]any
	dec := json.NewDecoder(bytes.NewReader(event))
	dec.UseNumber()
	if err := dec.Decode(&document); err != nil {
		return err
	}
	var erased, masked []string
	for _, rule := range rules {
		if !mend(document, rule.Path, &rule) {
			continue // nothing is there
		}
		if rule.Upsert {
			masked = append(masked, rule.Pointer())
		} else {
			erased = append(erased, rule.Pointer())
		}
	}
	for _, part := range []struct {
		name string
		into *[]byte
	}{{"input", &r.input}, {"result", &r.result}} {
		v := document[part.name] // null if it was erased
		if *part.into, err = json.Marshal(v); err != nil {
			return err
		}
	}
	for _, list := range []struct {
		name  string
		paths []string
	}{{"erased", erased}, {"masked", masked}} {
		if len(list.paths) == 0 {
			continue
		}
		b, err := json.Marshal(list.paths)
		if err != nil {
			return err
		}
		r.masked = append(fmt.Appendf(r.masked, `,%q:`, list.name), b...)
	}
	return nil
}

// mend applies one rule below a node and tells whether it did. An upsert makes the last
// member of its path, not those before it. An element of a list is erased to null, so
// that the others keep their places.
func mend(node any, path []string, rule *policy.MaskRule) bool {
	last := len(path) == 1
	switch n := node.(type) {
	case map[string]any:
		next, there := n[path[0]]
		switch {
		case !last:
			return there && mend(next, path[1:], rule)
		case rule.Upsert:
			n[path[0]] = rule.Value
			return true
		}
		delete(n, path[0])
		return there
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil || i < 0 || i >= len(n) {
			return false
		}
		if !last {
			return mend(n[i], path[1:], rule)
		}
		n[i] = nil
		if rule.Upsert {
			n[i] = rule.Value
		}
		return true
	}
	return false
}
