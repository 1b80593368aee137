// Package seal encrypts what the peer keeps, before it reaches a disk.
//
// A Keyring holds data keys, each with a term: a number that counts up over the
// whole keyring. A data key belongs to one namespace of one channel, to one channel,
// or to the node; which of them a place is sealed under follows from the place. It
// comes from the token's random generator, lies on disk only as the token's AES key wraps it,
// and seals with AES-256-GCM. Each value carries its term and the counter that made its
// nonce, and its place is associated data: a value that was altered, moved to
// another row or rolled back to another height does not open.
//
// # Why no nonce repeats
//
// The nonce is a counter which starts at 0 with each data key. It is nowhere but
// in the memory of the process that made the key: a process makes a new key from the
// token's random generator before it first seals for a namespace, a channel or the
// node, and no process ever
// seals with a key that it did not make itself. So there is no counter to lose in
// a crash and none to set back by restoring an old disk; and two machines that run
// from copies of one disk seal with two different keys. What this does not cover
// is a copy of the running process itself, memory and all, such as a virtual
// machine's snapshot that includes its memory and is then run twice: both copies
// go on from the same counter. Do not take such snapshots of a running peer; after
// one was restored, restart the process.
//
// # Where keys lie in memory
//
// Data keys are kept in memory that is locked, left out of core dumps, outside
// the Go heap and wiped when the keyring is closed. The key schedule that
// crypto/aes expands from each key lies in the Go heap, and so, for a moment, does
// the key as the token's driver hands it over: the first is never wiped, the
// second is. Who can read the process's memory can read the keys.
//
// GODEBUG=fips140=only refuses AES-GCM with a nonce that the caller chooses, so
// this package does not run under it.
package seal

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"strongroom/bccsp"
)

// What a caller may want to tell apart. All come wrapped in an error that names
// the place, the term or the file.
var (
	// ErrAltered means that authentication failed: the bytes were changed, or they
	// are another place's. The two cannot be told apart.
	ErrAltered = errors.New("sealed value does not open: it was altered or it belongs elsewhere")
	// ErrMalformed means that the bytes are not a sealed value at all.
	ErrMalformed = errors.New("not a sealed value")
	// ErrUnknownTerm means that the keyring has no data key of the value's term.
	ErrUnknownTerm = errors.New("the keyring has no such term")
	// ErrShredded means that the key was destroyed, and the value with it.
	ErrShredded = errors.New("the namespace's keys were destroyed (shredded)")
	// ErrOtherWrappingKey means that a data key was wrapped by another key than the
	// token's present wrapping key.
	ErrOtherWrappingKey = errors.New("data key is wrapped by another wrapping key")
	// ErrInUse means that another process has the keyring open for writing.
	ErrInUse = errors.New("keyring is in use by another process")
	// ErrReadOnly means that the keyring was opened for reading only.
	ErrReadOnly = errors.New("keyring is open for reading only")
	// ErrClosed means that the keyring was closed.
	ErrClosed = errors.New("keyring is closed")
)

const (
	keySize = 32
	// sealsPerTerm is how many values one data key seals before a new term starts.
	sealsPerTerm = 1 << 32
	// deviceTimeout bounds a call to the token that no caller's context bounds.
	deviceTimeout = 30 * time.Second
)

// Keyring seals and opens values. It is safe for concurrent use.
type Keyring struct {
	dir     string
	wrapper bccsp.KeyWrapper
	lock    *os.File // nil when read-only
	limit   uint64   // seals in one term
	now     func() time.Time

	current  atomic.Pointer[map[scope]*term]  // those that seal, by whose they are; nil when read-only or closed
	terms    atomic.Pointer[map[uint32]*term] // those in memory
	shredded atomic.Pointer[shredRecord]      // all three are replaced, never changed

	rotation atomic.Pointer[Rotation] // when a term ends before its seals are used up; nil for never

	mu     sync.Mutex // guards what follows, and replacing what is above
	memory *lockedMemory
	newest uint32
	closed bool
}

// term is one data key in memory.
type term struct {
	id   uint32
	of   scope
	old  bool   // of the first format: a key of the whole node, whatever it sealed
	key  []byte // in locked memory
	aead cipher.AEAD
	made time.Time     // by this process
	size atomic.Uint64 // bytes sealed by this process
	next atomic.Uint64 // counter of the next nonce; used only in the process that made the key
}

// OpenKeyring opens the keyring in a folder for writing, makes the folder when it
// is not there, and starts a new term of the node: a fresh data key that is on the disk,
// wrapped, before anything is sealed with it. Those of channels and namespaces are
// made when they are first needed. Keys of namespaces that were shredded are
// destroyed once more, should there be any. Only one process at a time can have
// a keyring open so; others get ErrInUse. A keyring whose newest term was wrapped
// by another key gives ErrOtherWrappingKey, a damaged file an error that names it.
func OpenKeyring(ctx context.Context, dir string, w bccsp.KeyWrapper) (*Keyring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	if err := wipeRewrapped(dir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	k, err := open(dir, w, true)
	if err == nil {
		k.lock = lock
		if err = k.destroyShredded(); err == nil {
			err = k.Rotate(ctx)
		}
	}
	if err != nil {
		if k != nil {
			k.memory.close()
		}
		return nil, errors.Join(err, lock.Close())
	}
	return k, nil
}

// OpenKeyringReadOnly opens a keyring that can open values but not seal any; it
// writes nothing and needs no lock.
func OpenKeyringReadOnly(dir string, w bccsp.KeyWrapper) (*Keyring, error) {
	return open(dir, w, false)
}

func open(dir string, w bccsp.KeyWrapper, writable bool) (*Keyring, error) {
	files, err := listTerms(dir, writable)
	if err != nil {
		return nil, err
	}
	k := &Keyring{dir: dir, wrapper: w, limit: sealsPerTerm, memory: &lockedMemory{}, now: time.Now}
	k.terms.Store(&map[uint32]*term{})
	record, err := readShredRecord(dir)
	if err != nil {
		return nil, err
	}
	k.shredded.Store(record)
	if len(files) > 0 {
		newest := files[len(files)-1]
		if newest.WrappingKeyID != w.WrappingKeyID() {
			return nil, otherWrappingKey(dir, newest, w)
		}
		k.newest = newest.Term
	}
	for _, s := range record.entries {
		k.newest = max(k.newest, s.Through)
	}
	return k, nil
}

func lockFolder(dir string) (*os.File, error) {
	name := filepath.Join(dir, "LOCK")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("keyring %s: %w (%w)", name, ErrInUse, err), f.Close())
	}
	return f, nil
}

// Term is the number of the node's present term: it goes up with each opening for
// writing and with each Rotate. It is 0 when nothing can be sealed.
func (k *Keyring) Term() uint32 {
	if m := k.current.Load(); m != nil {
		return (*m)[scope{}].id
	}
	return 0
}

// Rotate starts a new term of the node and ends the terms that seal for channels and
// namespaces: each gets a new one when it next seals. What older terms sealed is not
// rewritten and goes on being readable.
//
// Crash points: before the rename nothing is there but a temporary file, which
// the next opening removes. After it the term exists and was never used; no
// process will ever seal with it.
func (k *Keyring) Rotate(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	t, err := k.makeTerm(ctx, scope{})
	if err != nil {
		return err
	}
	k.current.Store(&map[scope]*term{{}: t})
	return nil
}

// Prepare has the keys ready under which places are sealed, so that sealing for them
// does not wait for the token. An error is the token's or the disk's.
func (k *Keyring) Prepare(ctx context.Context, places ...Place) error {
	for _, p := range places {
		m := k.current.Load()
		if m == nil {
			return k.unusable()
		}
		s := p.scope()
		if t := (*m)[s]; t == nil || k.due(t) {
			if err := k.replace(ctx, s, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// Rotation says when the term of a namespace or a channel ends, whichever comes first.
// A zero value is no limit. A process ends all terms that others made anyway.
type Rotation struct {
	Seals uint64        // values sealed
	Bytes uint64        // of what was sealed
	Age   time.Duration // since the key was made
}

// RotateAfter sets when terms end: Prepare, which a ledger calls for each block, then
// starts a new one. What is sealed between two calls goes beyond the limit.
func (k *Keyring) RotateAfter(r Rotation) { k.rotation.Store(&r) }

// due tells whether a term should end.
func (k *Keyring) due(t *term) bool {
	r := k.rotation.Load()
	return r != nil && (r.Seals > 0 && t.next.Load() > r.Seals || r.Bytes > 0 && t.size.Load() >= r.Bytes ||
		r.Age > 0 && k.now().Sub(t.made) >= r.Age)
}

// replace starts a new term unless another caller has done so already.
func (k *Keyring) replace(ctx context.Context, s scope, used *term) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := k.current.Load()
	if m != nil && (*m)[s] != used {
		return nil
	}
	t, err := k.makeTerm(ctx, s)
	if err != nil {
		return err
	}
	next := maps.Clone(*k.current.Load())
	next[s] = t
	k.current.Store(&next)
	return nil
}

// makeTerm makes a data key and has it on the disk. It is called with the mutex held.
func (k *Keyring) makeTerm(ctx context.Context, s scope) (*term, error) {
	switch {
	case k.closed:
		return nil, ErrClosed
	case k.lock == nil:
		return nil, ErrReadOnly
	case k.newest == ^uint32(0):
		return nil, fmt.Errorf("keyring %s has used up its terms", k.dir)
	}
	id := k.newest + 1
	key, err := k.wrapper.Random(ctx, keySize)
	if err != nil {
		return nil, fmt.Errorf("data key of term %d: random bytes from the token: %w", id, err)
	}
	defer clear(key)
	if len(key) != keySize || allSame(key) {
		return nil, fmt.Errorf("data key of term %d: the token's random generator gave %d bytes of no use", id, len(key))
	}
	wrapped, err := k.wrap(ctx, id, key)
	if err != nil {
		return nil, err
	}
	t, err := k.newTerm(id, key)
	if err != nil {
		return nil, err
	}
	t.of, t.made = s, k.now()
	f := termFile{
		Term: id, Channel: s.channel, Namespace: s.namespace, Created: k.now().UTC().Truncate(time.Second),
		WrappingKeyID: k.wrapper.WrappingKeyID(), Wrapped: wrapped,
	}
	f.Proof = t.seal(nil, nil, t.next.Add(1)-1, f.place())
	if err := writeTerm(k.dir, f); err != nil {
		return nil, err
	}
	k.newest = id
	k.keep(t)
	return t, nil
}

// wrap wraps a data key and sees that the token can unwrap it again.
func (k *Keyring) wrap(ctx context.Context, id uint32, key []byte) ([]byte, error) {
	wrapped, err := k.wrapper.WrapKey(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("data key of term %d: wrap: %w", id, err)
	}
	again, err := k.wrapper.UnwrapKey(ctx, wrapped)
	if err != nil {
		return nil, fmt.Errorf("data key of term %d: unwrap what was just wrapped: %w", id, err)
	}
	same := subtle.ConstantTimeCompare(key, again) == 1
	clear(again)
	if !same {
		return nil, fmt.Errorf("data key of term %d: the token unwraps another key than it wrapped", id)
	}
	return wrapped, nil
}

// newTerm takes a copy of the key into locked memory and makes it usable. It is
// called with the mutex held.
func (k *Keyring) newTerm(id uint32, key []byte) (*term, error) {
	locked, err := k.memory.alloc(keySize)
	if err != nil {
		return nil, fmt.Errorf("data key of term %d: %w", id, err)
	}
	copy(locked, key)
	aead, err := newAEAD(locked)
	if err != nil {
		return nil, fmt.Errorf("data key of term %d: %w", id, err)
	}
	return &term{id: id, key: locked, aead: aead}, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// keep has a term found by its number. It is called with the mutex held.
func (k *Keyring) keep(t *term) {
	terms := maps.Clone(*k.terms.Load())
	terms[t.id] = t
	k.terms.Store(&terms)
}

// term returns the key with which a value was sealed, unwrapping it in the token on
// first use. A key of another namespace or channel than s has sealed no value of s.
func (k *Keyring) term(id uint32, s scope) (*term, error) {
	if gone := k.shredded.Load().of(s); gone != nil && id <= gone.Through {
		return nil, fmt.Errorf("%w on %s", ErrShredded, gone.Time.Format(time.RFC3339))
	}
	t := (*k.terms.Load())[id]
	if t == nil {
		var err error
		if t, err = k.load(id); err != nil {
			return nil, err
		}
	}
	if !t.old && t.of != s {
		return nil, fmt.Errorf("term %d is of %s: %w", id, t.of, ErrAltered)
	}
	return t, nil
}

// load reads a term's file and has the token unwrap the key.
func (k *Keyring) load(id uint32) (*term, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil, ErrClosed
	}
	if t := (*k.terms.Load())[id]; t != nil {
		return t, nil
	}
	f, err := readTerm(k.dir, id)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("term %d: %w in %s", id, ErrUnknownTerm, k.dir)
	}
	if err != nil {
		return nil, err
	}
	if f.WrappingKeyID != k.wrapper.WrappingKeyID() {
		return nil, otherWrappingKey(k.dir, f, k.wrapper)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deviceTimeout)
	defer cancel()
	key, err := k.wrapper.UnwrapKey(ctx, f.Wrapped)
	if err != nil {
		return nil, fmt.Errorf("data key of term %d: unwrap: %w", id, err)
	}
	defer clear(key)
	if len(key) != keySize {
		return nil, fmt.Errorf("data key of term %d has %d bytes, %d are needed", id, len(key), keySize)
	}
	t, err := k.newTerm(id, key)
	if err != nil {
		return nil, err
	}
	t.of, t.old = f.scope(), f.first()
	if err := t.prove(f); err != nil {
		return nil, fmt.Errorf("keyring file %s: %w", termPath(k.dir, id), err)
	}
	k.keep(t)
	return t, nil
}

// prove sees that the key of a file is the one that was made for what the file says.
func (t *term) prove(f termFile) error {
	if f.first() {
		return nil
	}
	id, counter, header, err := parse(f.Proof)
	if err == nil && id != f.Term {
		err = ErrAltered
	}
	if err == nil {
		_, err = t.open(nil, f.Proof, counter, header, f.place())
	}
	if err != nil {
		return fmt.Errorf("its key was not made for what it says: %w", err)
	}
	return nil
}

// Close wipes the keys and releases the folder. Values can no longer be sealed or
// opened. Closing twice is no error.
func (k *Keyring) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return nil
	}
	k.closed = true
	k.current.Store(nil)
	k.terms.Store(&map[uint32]*term{})
	err := k.memory.close()
	if k.lock != nil {
		err = errors.Join(err, k.lock.Close())
	}
	return err
}

func otherWrappingKey(dir string, f termFile, w bccsp.KeyWrapper) error {
	return fmt.Errorf("%s: %w: it needs %q, the token offers %q; use the token and the wrapping key with which this keyring was made",
		termPath(dir, f.Term), ErrOtherWrappingKey, f.WrappingKeyID, w.WrappingKeyID())
}

func allSame(b []byte) bool {
	for _, c := range b[1:] {
		if c != b[0] {
			return false
		}
	}
	return true
}
