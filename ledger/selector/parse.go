package selector

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
)

// operators are what a selector may have, for the text of refusals.
const operators = "$and $or $nor $not $eq $ne $gt $gte $lt $lte $in $nin $exists $type $size $mod $regex $beginsWith $all $elemMatch $allMatch $keyMapMatch"

// parser counts what a selector has.
type parser struct {
	conditions int
	regexBytes int
	regexSteps int
}

// parseSelector reads a whole selector; nil matches every document.
func parseSelector(v any) (condition, error) {
	object, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("selector is of type %s; an object is needed", kindOf(v))
	}
	if len(object) == 0 {
		return nil, nil
	}
	var p parser
	c, err := p.object(object, "", false)
	if err != nil {
		return nil, fmt.Errorf("selector: %w", err)
	}
	return settle(c), nil
}

// object reads an object whose members all must match. The field is the name of
// the field that it stands under, "" for none; inner tells that it is the argument
// of $elemMatch or its like, whose operators may stand without a field.
func (p *parser) object(object map[string]any, field string, inner bool) (condition, error) {
	var all allOf
	for _, name := range slices.Sorted(maps.Keys(object)) {
		c, err := p.member(name, object[name], field, inner)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return all, nil
}

// value reads what stands under a field or in the list of a combination: an object
// is a selector, anything else, and the empty object, a value to equal.
func (p *parser) value(v any, field string, inner bool) (condition, error) {
	if object, ok := v.(map[string]any); ok && len(object) > 0 {
		return p.object(object, field, inner)
	}
	return p.operator("$eq", v, field, inner)
}

// member reads one member of a selector: an operator or a field.
func (p *parser) member(name string, v any, field string, inner bool) (condition, error) {
	switch name {
	case "":
		return nil, fmt.Errorf("a field's name is empty%s", under(field))
	case "$and", "$or", "$nor":
		list, ok := v.([]any)
		if !ok {
			return nil, argument(name, field, v, "a list of selectors")
		}
		parts := make([]condition, len(list))
		for i, e := range list {
			var err error
			if parts[i], err = p.value(e, field, inner); err != nil {
				return nil, err
			}
		}
		switch name {
		case "$and":
			return allOf(parts), p.count()
		case "$or":
			return anyOf(parts), p.count()
		}
		return noneOf(parts), p.count()
	case "$not":
		object, ok := v.(map[string]any)
		if !ok || len(object) == 0 {
			return nil, argument(name, field, v, "a selector that is not empty")
		}
		c, err := p.object(object, field, inner)
		if err != nil {
			return nil, err
		}
		return not{c}, p.count()
	}
	if strings.HasPrefix(name, "$") {
		return p.operator(name, v, field, inner)
	}
	if field != "" {
		name = field + "." + name
	}
	return p.value(v, name, inner)
}

// count counts one more condition.
func (p *parser) count() error {
	if p.conditions++; p.conditions > MaxConditions {
		return fmt.Errorf("it has more than %d conditions", MaxConditions)
	}
	return nil
}

// operator reads a condition on one value.
func (p *parser) operator(name string, v any, field string, inner bool) (condition, error) {
	if err := p.count(); err != nil {
		return nil, err
	}
	t := test{op: name, arg: v}
	var err error
	switch name {
	case "$eq", "$ne", "$gt", "$gte", "$lt", "$lte":
	case "$in", "$nin", "$all":
		if _, ok := v.([]any); !ok {
			return nil, argument(name, field, v, "a list of values")
		}
	case "$exists":
		if _, ok := v.(bool); !ok {
			return nil, argument(name, field, v, "true or false")
		}
	case "$type":
		if s, ok := v.(string); !ok || !slices.Contains([]string{"null", "boolean", "number", "string", "array", "object"}, s) {
			return nil, argument(name, field, v, "one of null, boolean, number, string, array, object")
		}
	case "$size":
		if t.size, err = count(name, v); err != nil {
			return nil, argument(name, field, v, "a whole number from 0 on")
		}
	case "$mod":
		if t.divisor, t.remainder, err = modulus(v); err != nil {
			return nil, fmt.Errorf("%s%s: %w", name, under(field), err)
		}
	case "$regex":
		if t.regex, err = p.regex(v); err != nil {
			return nil, fmt.Errorf("%s%s: %w", name, under(field), err)
		}
	case "$beginsWith":
		if _, ok := v.(string); !ok {
			return nil, argument(name, field, v, "a string")
		}
	case "$elemMatch", "$allMatch", "$keyMapMatch":
		object, ok := v.(map[string]any)
		if !ok || len(object) == 0 {
			return nil, argument(name, field, v, "a selector that is not empty")
		}
		if t.each, err = p.object(object, "", true); err != nil {
			return nil, fmt.Errorf("%s%s: %w", name, under(field), err)
		}
	default:
		return nil, fmt.Errorf("operator %q%s is not known; there are %s", name, under(field), operators)
	}
	if field == "" && inner {
		return t, nil
	}
	if field == "" {
		return nil, fmt.Errorf("operator %s stands without a field; put it under one, as in {\"field\":{%q:…}}", name, name)
	}
	at, err := parsePath(field)
	if err != nil {
		return nil, err
	}
	return fieldIs{path: at, raw: field == idField, is: t}, nil
}

// modulus reads [divisor, remainder].
func modulus(v any) (divisor, remainder int64, err error) {
	if list, ok := v.([]any); ok && len(list) == 2 {
		d, okD := list[0].(json.Number)
		r, okR := list[1].(json.Number)
		if okD && okR {
			divisor, errD := strconv.ParseInt(d.String(), 10, 64)
			remainder, errR := strconv.ParseInt(r.String(), 10, 64)
			if errD == nil && errR == nil && divisor != 0 {
				return divisor, remainder, nil
			}
		}
	}
	return 0, 0, errors.New("it needs [divisor, remainder], two integers of 64 bits, the first not 0")
}

// regex compiles a regular expression of Go's syntax (RE2): it runs in linear time.
func (p *parser) regex(v any) (*regexp.Regexp, error) {
	s, ok := v.(string)
	if !ok {
		return nil, fmt.Errorf("it is of type %s; a string is needed", kindOf(v))
	}
	if p.regexBytes += len(s); p.regexBytes > MaxRegexBytes {
		return nil, fmt.Errorf("the regular expressions of the query have more than %d bytes", MaxRegexBytes)
	}
	r, err := regexp.Compile(s)
	if err != nil {
		return nil, fmt.Errorf("%w (RE2 syntax: no back references, no look-around)", err)
	}
	if p.regexSteps += instructions(s); p.regexSteps > MaxRegexSteps {
		return nil, fmt.Errorf("the regular expressions of the query compile to more than %d instructions; repeat less", MaxRegexSteps)
	}
	return r, nil
}

// instructions is how long the program of a valid regular expression is: matching
// takes at most that many steps for each character.
func instructions(s string) int {
	parsed, err := syntax.Parse(s, syntax.Perl)
	if err != nil {
		return math.MaxInt32
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return math.MaxInt32
	}
	return len(program.Inst)
}

func argument(op, field string, v any, needed string) error {
	return fmt.Errorf("%s%s has an argument of type %s; it needs %s", op, under(field), kindOf(v), needed)
}

func under(field string) string {
	if field == "" {
		return ""
	}
	return fmt.Sprintf(" of field %q", field)
}
