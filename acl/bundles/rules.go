// Package bundles keeps a security team's bundle in force: it takes new revisions from
// a file or a folder, and swaps the access layers and the endorsement guard to them.
//
// A bundle counts only as a whole: its signature is verified in the token, its
// revision is newer than every one before, all its rules compile, and its own tests
// pass. On any error the one in force stays. What was taken is kept on disk before it
// decides, so that a restart neither loses it nor goes back behind it.
package bundles

import (
	"context"
	"fmt"
	"time"

	"strongroom/acl"
	"strongroom/acl/endorsement"
	"strongroom/policy"
	"strongroom/policy/bundle"
)

// maxTesting bounds the tests of one bundle.
const maxTesting = 2 * time.Minute

// Rules are a bundle's, compiled.
type Rules struct {
	Layers  map[acl.Layer]*policy.Program // those that the bundle has
	Endorse *policy.Program               // nil without an endorsement guard
	Mask    *policy.Mask                  // of the decision log; nil without package system.log
	Tests   []policy.TestResult
}

// Programs lists what a bundle may decide: the layers, and the endorsement guard.
func Programs(deadline time.Duration) []policy.ProgramConfig {
	configs := []policy.ProgramConfig{endorsement.Program(deadline)}
	for _, l := range acl.Layers() {
		configs = append(configs, l.Program(deadline))
	}
	return configs
}

// Compile compiles a bundle's rules, with their inputs' schemas, and runs its tests.
// The results of tests are in the rules; the error lists those that fail.
func Compile(ctx context.Context, b *bundle.Bundle, deadline time.Duration) (*Rules, error) {
	ctx, cancel := context.WithTimeout(ctx, maxTesting)
	defer cancel()
	configs := Programs(deadline)
	for i := range configs {
		configs[i].Bundle = policy.BundleRef{Revision: b.Revision, Digest: b.Digest}
	}
	programs, tests, err := policy.ParseSet(ctx, configs, b.Rego, b.Data)
	if err != nil {
		return nil, fmt.Errorf("policy bundle: revision %d: %w", b.Revision, err)
	}
	r := &Rules{Layers: map[acl.Layer]*policy.Program{}, Endorse: programs[endorsement.Package], Tests: tests}
	if r.Mask, err = policy.ParseMask(b.Rego, b.Data, deadline); err != nil {
		return nil, fmt.Errorf("policy bundle: revision %d: %w", b.Revision, err)
	}
	for _, l := range acl.Layers() {
		if p := programs[l.Package()]; p != nil {
			r.Layers[l] = p
		}
	}
	return r, nil
}
