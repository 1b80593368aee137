package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
)

// RuleText is one rule of a set of files, in Rego's usual form.
type RuleText struct {
	Rule  string `json:"rule"`  // package and name
	Place string `json:"place"` // file:line
	Text  string `json:"text"`
}

// RuleTexts are the rules of files, tests not counted, in order.
func RuleTexts(files map[string][]byte) ([]RuleText, error) {
	modules, _, err := parseModules(files)
	if err != nil {
		return nil, err
	}
	var out []RuleText
	for _, m := range modules {
		for _, r := range m.Rules {
			text, err := format.AstWithOpts(r, format.Opts{RegoVersion: ast.RegoV1, IgnoreLocations: true})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.Location, err)
			}
			out = append(out, RuleText{Rule: packageName(m) + "." + r.Head.Ref().GroundPrefix().String(),
				Place: fmt.Sprintf("%s:%d", r.Location.File, r.Location.Row), Text: strings.TrimSpace(string(text))})
		}
	}
	slices.SortFunc(out, func(a, b RuleText) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Text, b.Text), cmp.Compare(a.Place, b.Place))
	})
	return out, nil
}

// DiffRules are the rules that only one of two sets of files has: what a rule says
// counts, and not where it stands.
func DiffRules(before, after map[string][]byte) (removed, added []RuleText, err error) {
	old, err := RuleTexts(before)
	if err != nil {
		return nil, nil, err
	}
	now, err := RuleTexts(after)
	if err != nil {
		return nil, nil, err
	}
	without := func(list, others []RuleText) (left []RuleText) {
		count := map[[2]string]int{}
		for _, r := range others {
			count[[2]string{r.Rule, r.Text}]++
		}
		for _, r := range list {
			if k := [2]string{r.Rule, r.Text}; count[k] > 0 {
				count[k]--
			} else {
				left = append(left, r)
			}
		}
		return left
	}
	return without(old, now), without(now, old), nil
}
