package bundles

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"strongroom/acl"
	"strongroom/acl/decisions"
	"strongroom/acl/endorsement"
	"strongroom/bccsp"
	"strongroom/policy"
	"strongroom/policy/bundle"
)

// DefaultPoll is how often a source is looked at.
const DefaultPoll = 10 * time.Second

// ErrOlder says that a bundle's revision is not newer than the one in force.
var ErrOlder = errors.New("the revision may not go back")

// Config is what a Keeper needs.
type Config struct {
	// Dir is this keeper's own folder: it holds the bundle in force.
	Dir      string
	Source   Source
	Poll     time.Duration // 0: DefaultPoll
	Verifier bccsp.Verifier
	Key      bundle.Key
	Layers   *acl.Guard
	Endorse  *endorsement.Guard // nil for a node that endorses nothing
	Masks    *decisions.Log     // nil for a node without a decision log
	Deadline time.Duration      // of one evaluation; 0 means policy's default
	Logger   *slog.Logger       // nil means silence
	// Observe, if set, is told of each bundle that was looked at: "taken" or "refused",
	// and the revision in force.
	Observe func(result string, revision uint64)
	// Record, if set, is told of each bundle before it comes in force, and of each that is
	// refused, with the reason; its revision is 0 if that cannot be told. A bundle whose
	// record cannot be kept is not taken.
	Record func(ctx context.Context, revision uint64, digest policy.Digest, refused error) error
}

// InForce is the bundle that decides.
type InForce struct {
	Revision uint64
	Digest   policy.Digest // SHA-256 of the archive
}

// Keeper keeps a bundle in force. It is safe for concurrent use.
type Keeper struct {
	cfg     Config
	current atomic.Pointer[InForce]

	failures int // to reach the source, one after the other; Run's own

	mu      sync.Mutex    // held while a bundle is taken; guards what follows
	floor   uint64        // no revision below it is taken
	refused policy.Digest // of the archive that was refused last: it is not tried again
}

// Open puts in force the newer of the bundle that was kept and the one that the source
// offers. With neither it is an error, so that a node never serves without its rules.
func Open(ctx context.Context, cfg Config) (*Keeper, error) {
	switch {
	case cfg.Dir == "" || cfg.Source == nil || cfg.Verifier == nil || cfg.Layers == nil:
		return nil, errors.New("policy bundle: Dir, Source, Verifier and Layers are needed")
	case cfg.Poll < 0:
		return nil, errors.New("policy bundle: Poll is negative: use 0 for the default")
	case cfg.Poll == 0:
		cfg.Poll = DefaultPoll
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{cfg: cfg}
	kept := k.restore(ctx)
	if kept != nil && k.floor == 0 && !errors.Is(kept, fs.ErrNotExist) {
		return nil, fmt.Errorf("policy bundle that was kept in %s: %w: which revision was in force cannot be told; if that is understood, remove the file", k.file(), kept)
	}
	offered := k.Refresh(ctx)
	switch {
	case offered == nil:
		return k, nil
	case k.current.Load() == nil:
		return nil, offered
	}
	cfg.Logger.ErrorContext(ctx, "the policy bundle that is offered cannot be taken: the one that was kept stays in force",
		"source", cfg.Source.String(), "revision", k.current.Load().Revision, "error", offered)
	return k, nil
}

// Current is the bundle in force.
func (k *Keeper) Current() InForce { return *k.current.Load() }

// maxPause is how long Run waits at most for a source that cannot be reached.
const maxPause = 10 * time.Minute

// Run looks at the source until ctx ends: every Poll, at longer and longer intervals
// while it cannot be reached, and at once when a source with a channel Changed says so.
func (k *Keeper) Run(ctx context.Context) {
	var changed <-chan struct{}
	if s, ok := k.cfg.Source.(interface{ Changed() <-chan struct{} }); ok {
		changed = s.Changed()
	}
	pause := k.cfg.Poll
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-changed:
		}
		err := k.Refresh(ctx)
		if pause = k.cfg.Poll; errors.Is(err, ErrUnreachable) {
			k.failures++
			pause = min(k.cfg.Poll<<min(k.failures, 10), max(maxPause, k.cfg.Poll))
		} else {
			k.failures = 0
		}
		timer.Reset(pause)
		if err != nil && ctx.Err() == nil {
			k.cfg.Logger.ErrorContext(ctx, "policy bundle not taken: the one in force stays", "source", k.cfg.Source.String(),
				"revision", k.Current().Revision, "error", err)
		}
	}
}

// Refresh looks at the source once, and takes what it offers if that is new. What was
// refused for what it is, and has not changed, is passed over in silence; after a
// failure of ours (the token's, the disk's) it is tried again.
func (k *Keeper) Refresh(ctx context.Context) error {
	archive, err := k.cfg.Source.Fetch(ctx)
	if errors.Is(err, ErrUnchanged) {
		return nil
	}
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	digest := policy.Digest(sha256.Sum256(archive))
	current := k.current.Load()
	if current != nil && (digest == current.Digest || digest == k.refused) {
		return nil
	}
	b, err := bundle.Open(ctx, k.cfg.Verifier, k.cfg.Key, archive)
	if err == nil {
		err = k.newer(b)
	}
	var rules *Rules
	if err == nil {
		rules, err = Compile(ctx, b, k.cfg.Deadline)
	}
	if err == nil {
		if err = k.record(ctx, b, digest, nil); err == nil {
			err = k.keep(archive)
		}
		if err == nil {
			err = k.enforce(ctx, b, rules)
		}
		if f, ok := k.cfg.Source.(interface{ Forget() }); ok && err != nil {
			f.Forget()
		}
		return k.observed(err)
	}
	if !errors.Is(err, bundle.ErrNotAnswered) && !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		k.refused = digest
		err = errors.Join(err, k.record(ctx, b, digest, err))
	} else if f, ok := k.cfg.Source.(interface{ Forget() }); ok {
		f.Forget() // it is tried again, so it must be fetched again
	}
	return k.observed(err)
}

func (k *Keeper) record(ctx context.Context, b *bundle.Bundle, digest policy.Digest, refused error) error {
	if k.cfg.Record == nil {
		return nil
	}
	revision := uint64(0)
	if b != nil {
		revision = b.Revision
	}
	if err := k.cfg.Record(ctx, revision, digest, refused); err != nil {
		return fmt.Errorf("policy bundle: %w", err)
	}
	return nil
}

func (k *Keeper) observed(err error) error {
	if k.cfg.Observe == nil {
		return err
	}
	result, revision := "taken", uint64(0)
	if err != nil {
		result = "refused"
	}
	if current := k.current.Load(); current != nil {
		revision = current.Revision
	}
	k.cfg.Observe(result, revision)
	return err
}

// newer refuses what is not newer than the bundle in force, and what is older than a
// kept one that cannot be used any more.
func (k *Keeper) newer(b *bundle.Bundle) error {
	current := k.current.Load()
	switch {
	case current != nil && b.Revision == current.Revision:
		return fmt.Errorf("policy bundle: %w: revision %d is in force with other content: give the new bundle a higher one", ErrOlder, b.Revision)
	case b.Revision < k.floor:
		return fmt.Errorf("policy bundle: %w: it has revision %d, and %d was in force: build it anew with a higher one", ErrOlder, b.Revision, k.floor)
	}
	return nil
}

// enforce swaps the rules. Each decision is made wholly by the old or the new ones.
func (k *Keeper) enforce(ctx context.Context, b *bundle.Bundle, r *Rules) error {
	if k.cfg.Masks != nil { // first: nothing of the new rules' decisions shall be seen under the old mask
		k.cfg.Masks.Mask(r.Mask)
	}
	if err := k.cfg.Layers.Replace(ctx, r.Layers); err != nil {
		return err
	}
	if k.cfg.Endorse != nil {
		k.cfg.Endorse.Replace(r.Endorse)
	}
	k.floor = b.Revision
	k.current.Store(&InForce{Revision: b.Revision, Digest: b.Digest})
	layers := make([]string, 0, len(r.Layers))
	for _, l := range acl.Layers() {
		if r.Layers[l] != nil {
			layers = append(layers, string(l))
		}
	}
	k.cfg.Logger.InfoContext(ctx, "policy bundle in force", "revision", b.Revision, "digest", b.Digest, "layers", layers,
		"endorsement", r.Endorse != nil, "tests", len(r.Tests))
	return nil
}

func (k *Keeper) file() string { return filepath.Join(k.cfg.Dir, "bundle.tar.gz") }

// restore puts the kept bundle in force. When it cannot (its key was changed, this
// version of the program no longer takes it), its revision still counts.
func (k *Keeper) restore(ctx context.Context) error {
	archive, err := File(k.file()).Fetch(ctx)
	if err != nil {
		return err
	}
	b, err := bundle.Open(ctx, k.cfg.Verifier, k.cfg.Key, archive)
	if err == nil {
		var rules *Rules
		if rules, err = Compile(ctx, b, k.cfg.Deadline); err == nil {
			return k.enforce(ctx, b, rules)
		}
	}
	claimed, claimErr := bundle.Claimed(archive)
	if claimErr != nil {
		return errors.Join(err, claimErr)
	}
	k.floor = claimed
	k.cfg.Logger.ErrorContext(ctx, "the policy bundle that was kept cannot be used", "revision", claimed, "error", err)
	return err
}

// keep writes the archive to disk, before it decides anything.
//
// Crash points: before the rename the former bundle is kept and in force after the
// restart, and the source offers the new one again; after it, the new one is. Its
// signed revision is the record of how far revisions went: there is no second one.
func (k *Keeper) keep(archive []byte) (err error) {
	if err := os.MkdirAll(k.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("keep the policy bundle: %w", err)
	}
	f, err := os.CreateTemp(k.cfg.Dir, ".bundle-*")
	if err != nil {
		return fmt.Errorf("keep the policy bundle: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("keep the policy bundle: %w", errors.Join(err, ignoreGone(os.Remove(f.Name()))))
		}
	}()
	_, err = f.Write(archive)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), k.file()); err != nil {
		return err
	}
	dir, err := os.Open(k.cfg.Dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
