package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"

	crand "crypto/rand"
)

// kind is what a piece of work asks of the peer.
type kind string

const (
	endorseKind  kind = "endorse"
	evaluateKind kind = "evaluate"
	submitKind   kind = "submit"
	mixedKind    kind = "mixed" // evaluate and submit
)

// work makes calls of the chaincode. It is safe for concurrent use.
type work struct {
	kind      kind
	write     []string // arguments, {key} and {value} are replaced
	read      []string
	conflict  []string // a write to a key that exists
	reads     int      // of a hundred, when kind is mixed
	conflicts int      // of a hundred writes
	hot       int      // keys that conflicting writes share
	keys      int      // keys that are there when work begins
	keySize   int
	valueSize int

	prefix string // of this run's keys
	next   atomic.Uint64
}

// newWork checks the settings. The prefix makes keys of different runs differ.
func newWork(w *work) (*work, error) {
	switch w.kind {
	case endorseKind, evaluateKind, submitKind, mixedKind:
	default:
		return nil, fmt.Errorf("work is %q: use endorse, evaluate, submit or mixed", w.kind)
	}
	switch {
	case w.reads < 0 || w.reads > 100 || w.conflicts < 0 || w.conflicts > 100:
		return nil, errors.New("--reads and --conflicts are of a hundred: give 0 to 100")
	case w.keySize < minKey || w.keySize > 4096:
		return nil, fmt.Errorf("--key-size is %d: give %d to 4096", w.keySize, minKey)
	case w.valueSize < 1 || w.valueSize > 1<<20:
		return nil, fmt.Errorf("--value-size is %d: give 1 to 1048576", w.valueSize)
	case w.keys < 0 || w.keys > 1_000_000:
		return nil, fmt.Errorf("--keys is %d: give 0 to 1000000", w.keys)
	case w.keys == 0 && (w.kind == evaluateKind || w.kind == mixedKind && w.reads > 0 || w.conflicts > 0):
		return nil, errors.New("--keys is 0, but reads and conflicts need keys that exist: give at least 1")
	case w.hot < 1:
		return nil, errors.New("--hot-keys must be at least 1")
	}
	var id [4]byte
	if _, err := crand.Read(id[:]); err != nil {
		return nil, err
	}
	w.prefix = "l" + hex.EncodeToString(id[:])
	w.hot = min(w.hot, max(w.keys, 1))
	return w, nil
}

// minKey holds the prefix and a counter of ten digits.
const minKey = 19

func (w *work) key(group byte, n uint64) string {
	return fmt.Sprintf("%s%c%0*d", w.prefix, group, w.keySize-len(w.prefix)-1, n)
}

// prepared is the nth of the keys that are written before the measurement.
func (w *work) prepared(n int) []string { return w.fill(w.write, w.key('p', uint64(n))) }

// call is one piece of work: what it asks, and its arguments.
type call struct {
	kind kind
	args []string
}

// draw makes the next piece of work.
func (w *work) draw() call {
	k := w.kind
	if k == mixedKind {
		k = submitKind
		if rand.IntN(100) < w.reads {
			k = evaluateKind
		}
	}
	if k == evaluateKind {
		return call{k, w.fill(w.read, w.key('p', uint64(rand.IntN(w.keys))))}
	}
	if rand.IntN(100) < w.conflicts {
		return call{k, w.fill(w.conflict, w.key('p', uint64(rand.IntN(w.hot))))}
	}
	return call{k, w.fill(w.write, w.key('w', w.next.Add(1)))}
}

func (w *work) fill(template []string, key string) []string {
	out := make([]string, len(template))
	for i, a := range template {
		switch {
		case a == "{key}":
			out[i] = key
		case strings.Contains(a, "{value}"):
			out[i] = strings.ReplaceAll(a, "{value}", value(w.valueSize))
		default:
			out[i] = a
		}
	}
	return out
}

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// value is random, so that nothing compresses it away.
func value(size int) string {
	b := make([]byte, size)
	for i := range b {
		b[i] = letters[rand.IntN(len(letters))]
	}
	return string(b)
}
