package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The file SHREDDED records which namespaces' keys were destroyed. It only grows:
//
//	strongroom shredded 1
//	"channel" "namespace" THROUGH KEYS 2026-01-02T03:04:05Z HASH
//
// One line for each time: the newest term of the keyring then, how many keys there
// were, when, and the SHA-256, as hex, of all bytes of the file before the hash.
const (
	shredName = "SHREDDED"
	shredHead = "strongroom shredded 1\n"
)

// Shredded says that the keys of a namespace were destroyed.
type Shredded struct {
	Channel   string    `json:"channel"`
	Namespace string    `json:"namespace"`
	Through   uint32    `json:"throughTerm"` // the newest term of the keyring then: no key of the namespace up to it is left
	Keys      int       `json:"keys"`        // how many were destroyed
	Time      time.Time `json:"time"`        // UTC, whole seconds
	Digest    string    `json:"digest"`      // SHA-256 in hex over the record up to here
}

// shredRecord is the content of the file SHREDDED; it is never changed.
type shredRecord struct {
	content []byte
	entries []Shredded
	newest  map[scope]*Shredded
}

func (r *shredRecord) of(s scope) *Shredded {
	if len(r.newest) == 0 {
		return nil
	}
	return r.newest[s]
}

// add returns a record with one more line.
func (r *shredRecord) add(s Shredded) *shredRecord {
	content := bytes.Clone(r.content)
	if len(content) == 0 {
		content = []byte(shredHead)
	}
	content = fmt.Appendf(content, "%q %q %d %d %s ", s.Channel, s.Namespace, s.Through, s.Keys, s.Time.Format(time.RFC3339))
	sum := sha256.Sum256(content)
	s.Digest = hex.EncodeToString(sum[:])
	out := &shredRecord{content: fmt.Appendf(content, "%s\n", s.Digest), entries: append(r.entries[:len(r.entries):len(r.entries)], s), newest: map[scope]*Shredded{}}
	for i, e := range out.entries {
		out.newest[scope{e.Channel, e.Namespace}] = &out.entries[i]
	}
	return out
}

// parseShredRecord reads the file. Only the very bytes that add writes pass.
func parseShredRecord(b []byte) (*shredRecord, error) {
	r := &shredRecord{}
	rest, ok := strings.CutPrefix(string(b), shredHead)
	if !ok {
		return nil, fmt.Errorf("first line is not %q", strings.TrimSpace(shredHead))
	}
	for line := range strings.Lines(rest) {
		var s Shredded
		var at string
		if _, err := fmt.Sscanf(line, "%q %q %d %d %s %s\n", &s.Channel, &s.Namespace, &s.Through, &s.Keys, &at, &s.Digest); err != nil {
			return nil, fmt.Errorf("line %d is not readable", len(r.entries)+2)
		}
		var err error
		if s.Time, err = time.Parse(time.RFC3339, at); err != nil {
			return nil, fmt.Errorf("line %d has no time", len(r.entries)+2)
		}
		r = r.add(s)
	}
	if len(r.entries) == 0 || !bytes.Equal(r.content, b) {
		return nil, errors.New("a hash or the spelling is wrong: the file was damaged or edited")
	}
	return r, nil
}

func readShredRecord(dir string) (*shredRecord, error) {
	name := filepath.Join(dir, shredName)
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return &shredRecord{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	r, err := parseShredRecord(b)
	if err != nil {
		return nil, fmt.Errorf("keyring file %s: %w; restore it from a backup", name, err)
	}
	return r, nil
}

// IsShredded tells whether a namespace of a channel was ever shredded.
func (k *Keyring) IsShredded(channel, namespace string) bool {
	return k.shredded.Load().of(scope{channel, namespace}) != nil
}

// Shredded is the record of the namespaces whose keys were destroyed, oldest first.
func (k *Keyring) Shredded() []Shredded {
	return append([]Shredded(nil), k.shredded.Load().entries...)
}

// Shred destroys all keys of a namespace of a channel: what they sealed can never be
// opened again, here or with the token, but from a copy of the keyring that was made
// before. Values that the namespace seals later get new keys. It records that it did.
//
// Crash points: the record is on the disk before the first key goes. From then on no
// keyring that has the record opens a value of the namespace, and each opening of
// the keyring destroys what is left of the keys.
func (k *Keyring) Shred(channel, namespace string) (*Shredded, error) {
	if channel == "" || !OwnKeys(namespace) {
		return nil, fmt.Errorf("namespace %q of channel %q has no keys of its own: only chaincode's namespaces can be shredded", namespace, channel)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.closed:
		return nil, ErrClosed
	case k.lock == nil:
		return nil, ErrReadOnly
	}
	of := scope{channel, namespace}
	files, err := k.filesOf(of, k.newest)
	if err != nil {
		return nil, err
	}
	record := k.shredded.Load().add(Shredded{
		Channel: channel, Namespace: namespace, Through: k.newest, Keys: len(files), Time: k.now().UTC().Truncate(time.Second),
	})
	if err := writeFile(k.dir, filepath.Join(k.dir, shredName), record.content); err != nil {
		return nil, err
	}
	k.shredded.Store(record)
	k.forget(of)
	for _, f := range files {
		if err := destroy(termPath(k.dir, f.Term)); err != nil {
			return nil, err
		}
	}
	if err := syncFolder(k.dir); err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	return record.of(of), nil
}

// Keys counts the data keys of a namespace of a channel that are in the keyring.
func (k *Keyring) Keys(channel, namespace string) (int, error) {
	files, err := k.filesOf(scope{channel, namespace}, ^uint32(0))
	return len(files), err
}

// filesOf finds the files of a scope's keys up to a term.
func (k *Keyring) filesOf(of scope, through uint32) ([]termFile, error) {
	all, err := listTerms(k.dir, false)
	if err != nil {
		return nil, err
	}
	var files []termFile
	for _, f := range all {
		if !f.first() && f.scope() == of && f.Term <= through {
			files = append(files, f)
		}
	}
	return files, nil
}

// forget drops the keys of a scope from memory. It is called with the mutex held.
func (k *Keyring) forget(of scope) {
	current, terms := map[scope]*term{}, map[uint32]*term{}
	for s, t := range *k.current.Load() {
		if s != of {
			current[s] = t
		}
	}
	for id, t := range *k.terms.Load() {
		if t.old || t.of != of {
			terms[id] = t
		} else {
			clear(t.key)
		}
	}
	k.current.Store(&current)
	k.terms.Store(&terms)
}

// destroyShredded destroys the keys that a crash, or somebody who put them back, left
// of namespaces that were shredded.
func (k *Keyring) destroyShredded() error {
	for of, s := range k.shredded.Load().newest {
		files, err := k.filesOf(of, s.Through)
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := destroy(termPath(k.dir, f.Term)); err != nil {
				return err
			}
		}
		if len(files) > 0 {
			if err := syncFolder(k.dir); err != nil {
				return fmt.Errorf("keyring: %w", err)
			}
		}
	}
	return nil
}

// destroy takes a key's file away. Under its other name it counts for nothing, and
// the next opening wipes it should a crash come before the end.
func destroy(name string) error {
	if err := os.Rename(name, name+tempSuffix); err != nil {
		return fmt.Errorf("keyring: destroy a key: %w", err)
	}
	return wipe(name + tempSuffix)
}

// wipe overwrites a file where it lies, as far as the file system does that, and
// removes it.
func wipe(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt(make([]byte, info.Size()), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Remove(name)
	}
	if err != nil {
		return fmt.Errorf("keyring: destroy a key: %w", err)
	}
	return nil
}
