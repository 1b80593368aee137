package bundles_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"strongroom/acl/decisions"
	"strongroom/policy"
)

// TestRecordsNameTheirRules swaps bundles while decisions are made and recorded: each
// record names the revision whose rules gave its result, in the layers and in the guard,
// for decisions that are remembered as for those that are not.
func TestRecordsNameTheirRules(t *testing.T) {
	n := newNode(t)
	var records, wrong atomic.Uint64
	n.kept = func(b []byte) {
		d, err := decisions.Parse(b)
		if err != nil {
			t.Error(err)
			return
		}
		records.Add(1)
		revision, err := strconv.Atoi(d.Bundles["policy"].Revision)
		if err != nil || d.Result.Allow != (revision%2 == 0) {
			wrong.Add(1)
		}
	}
	n.offer(t, 1, rules("always"))
	k := open(t, n.config())
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				n.allows("even")
				n.endorses("even")
			}
		})
	}
	for revision := 2; revision <= 30; revision++ {
		files := rules("always")
		if revision%2 == 0 {
			files = rules("always", "even")
		}
		n.offer(t, uint64(revision), files)
		if err := k.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	workers.Wait()
	if wrong.Load() != 0 || records.Load() < 100 {
		t.Errorf("%d records, %d name other rules than those that decided", records.Load(), wrong.Load())
	}
}

// TestChangesAreRecorded records what is taken before it is in force, and what is
// refused; what cannot be recorded is not taken.
func TestChangesAreRecorded(t *testing.T) {
	n := newNode(t)
	var told []string
	var full error
	c := n.config()
	c.Masks = n.log
	c.Record = func(_ context.Context, revision uint64, digest policy.Digest, refused error) error {
		if full != nil {
			return full
		}
		if digest == (policy.Digest{}) {
			t.Error("a change without a digest")
		}
		if revision == 2 && n.allows("new") {
			t.Error("the bundle is in force before it is recorded")
		}
		told = append(told, fmt.Sprint(revision, " ", refused != nil))
		return nil
	}
	n.offer(t, 1, rules("a"))
	k := open(t, c)
	n.offer(t, 2, rules("new"))
	full = errors.New("disk full")
	if err := k.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "disk full") || k.Current().Revision != 1 || n.allows("new") {
		t.Errorf("a change that cannot be recorded: %v, revision %d", err, k.Current().Revision)
	}
	full = nil
	if err := k.Refresh(t.Context()); err != nil || !n.allows("new") {
		t.Errorf("afterwards: %v", err)
	}
	bad := rules("x")
	bad["function.rego"] = "package strongroom.acl.function\n\nallow if"
	n.offer(t, 3, bad)
	if err := k.Refresh(t.Context()); err == nil {
		t.Error("a broken bundle was taken")
	}
	if got := strings.Join(told, ", "); got != "1 false, 2 false, 3 true" {
		t.Errorf("recorded: %s", got)
	}
	// The mask comes with the bundle.
	masked := rules("new")
	masked["mask.rego"] = "package system.log\n\nmask contains \"/input\"\n"
	n.offer(t, 4, masked)
	if err := k.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	var last []byte
	n.kept = func(b []byte) { last = b }
	n.allows("new")
	if d, err := decisions.Parse(last); err != nil || string(d.Input) != "null" || len(d.Erased) != 1 {
		t.Errorf("%s: %v", last, err)
	}
}
