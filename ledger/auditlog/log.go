package auditlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"strongroom/ledger/translog"
)

// Entry is what Put queues. Render is called once, later, by the log's own goroutine: it
// makes the value of a decision record and its private part.
type Entry interface {
	Render() (decision, private []byte, err error)
}

// Log is a node's audit log, open for writing. It is safe for concurrent use.
type Log struct {
	cfg    Config
	writer *writer // of the writing goroutine, but for what says otherwise

	failure atomic.Pointer[error] // why nothing can be written now
	wake    chan struct{}         // one token: there is something to do
	done    chan struct{}         // closed when the goroutines have ended
	stop    context.CancelFunc

	mu      sync.Mutex // guards what follows
	queue   []queued
	bytes   int
	room    chan struct{} // closed, and replaced, when the queue was taken
	urgent  bool          // somebody waits for the queue to be written
	dropped Gap           // not recorded yet
	closed  bool
	size    uint64          // records on disk
	grown   []translog.Hash // the leaves of those that the tree lacks; they are the last

	// What follows is of the goroutine that signs checkpoints.
	tree   *translog.Log // nil until it is opened again after a failure
	signed uint64        // size of the latest checkpoint
	origin string        // and its origin, "" before the first
	note   []byte        // and itself
}

type queued struct {
	entry Entry
	act   *Act // instead of an entry
	size  int
	done  chan error // buffered; nil if nobody waits
}

// Open opens or makes a log and starts to write. A last write that a crash cut off is
// removed; anything else that is wrong with the log is an error that names the file, as
// is a log that is shorter than its last checkpoint or differs from it.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = DefaultSegmentBytes
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Observe == nil {
		cfg.Observe = func(string, int) {}
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, recordsDir), 0o700); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	l := &Log{cfg: cfg,
		wake: make(chan struct{}, 1), done: make(chan struct{}), room: make(chan struct{})}
	w, err := openWriter(cfg)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	l.writer, l.size = w, w.next
	if err := l.openTree(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("audit log: %w", err), w.close())
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.stop = stop
	go l.run(background)
	return l, nil
}

// Put queues a decision. size is about how many bytes the entry holds, and bounds the
// queue. The error wraps ErrUnavailable, or is that of a context that ended while Put
// waited: the decision then must not be acted on. With Config.Drop there is none.
func (l *Log) Put(ctx context.Context, e Entry, size int) error {
	q := queued{entry: e, size: size}
	if l.cfg.Strict {
		q.done = make(chan error, 1)
	}
	return l.put(ctx, q)
}

// Act records an administrative act. When it returns without an error the record is on
// disk. It never drops an act.
func (l *Log) Act(ctx context.Context, a Act) error {
	if a.Name == "" {
		return errors.New("audit log: an act without a name")
	}
	if a.Time.IsZero() {
		a.Time = l.cfg.Now()
	}
	a.Time = a.Time.UTC().Truncate(time.Millisecond)
	return l.put(ctx, queued{act: &a, size: 512, done: make(chan error, 1)})
}

func (l *Log) put(ctx context.Context, q queued) error {
	if err := l.enqueue(ctx, q); err != nil || q.done == nil {
		return err
	}
	select {
	case err := <-q.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w in time: %w", ErrUnavailable, ctx.Err())
	}
}

func (l *Log) enqueue(ctx context.Context, q queued) error {
	var timeout <-chan time.Time
	for {
		room, err := l.tryEnqueue(q)
		if room == nil {
			return err
		}
		if timeout == nil {
			t := time.NewTimer(roomWait)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-room:
		case <-ctx.Done():
			return fmt.Errorf("%w: the queue is full: %w", ErrUnavailable, ctx.Err())
		case <-timeout:
			return fmt.Errorf("%w: the disk is too slow, the queue was full for %s", ErrUnavailable, roomWait)
		}
	}
}

// tryEnqueue returns a channel to wait for if there is no room now.
func (l *Log) tryEnqueue(q queued) (room <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: the log is closed", ErrUnavailable)
	}
	droppable := l.cfg.Drop && q.act == nil
	if failure := l.failure.Load(); failure != nil {
		if droppable {
			l.drop((*failure).Error())
			return nil, nil
		}
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, *failure)
	}
	if len(l.queue) > 0 && (l.bytes+q.size > maxQueuedBytes || len(l.queue) >= maxQueued) {
		if droppable {
			l.drop("the queue was full")
			return nil, nil
		}
		return l.room, nil
	}
	first := len(l.queue) == 0
	l.queue = append(l.queue, q)
	l.bytes += q.size
	if q.done != nil && !l.urgent {
		l.urgent, first = true, true
	}
	if first {
		l.signal()
	}
	return nil, nil
}

func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// drop counts a decision that is not recorded. It needs l.mu.
func (l *Log) drop(reason string) {
	now := l.cfg.Now().UTC().Truncate(time.Millisecond)
	if l.dropped.Dropped == 0 {
		l.dropped = Gap{From: now, Reason: reason}
		l.signal()
	}
	l.dropped.Dropped++
	l.dropped.To = now
	l.cfg.Observe("dropped", 1)
}

// Healthy says why records cannot be written, if so.
func (l *Log) Healthy(context.Context) error {
	if failure := l.failure.Load(); failure != nil {
		return *failure
	}
	return nil
}

// Close writes what is queued, signs a last checkpoint and closes the log. What cannot
// be written is an error that says how many records are lost.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	l.stop()
	<-l.done
	var lost error
	if n := len(l.writer.pending) + len(l.queue); n > 0 {
		lost = fmt.Errorf("audit log: %d records were not written and are lost: %w", n, l.Healthy(context.Background()))
	}
	return errors.Join(lost, l.writer.close())
}

// run writes what is queued until ctx ends, and then the rest.
func (l *Log) run(ctx context.Context) {
	defer close(l.done)
	var signing sync.WaitGroup
	signing.Go(func() { l.checkpoints(ctx) })
	for ctx.Err() == nil {
		l.await(ctx)
		l.flush()
	}
	for l.flush(); l.failure.Load() == nil && l.waiting(); {
		l.flush()
	}
	signing.Wait()
	l.lastCheckpoint(context.WithoutCancel(ctx))
	if l.waiting() && l.failure.Load() == nil { // that the key changed, which the next start signs
		l.flush()
	}
}

// own queues an act of the log itself. Nobody waits for it.
func (l *Log) own(a Act) {
	a.Actor, a.Time = "node", l.cfg.Now().UTC().Truncate(time.Millisecond)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, queued{act: &a, size: 512})
	l.signal()
}

// waiting tells whether something is queued.
func (l *Log) waiting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queue) > 0 || l.dropped.Dropped > 0
}

// await returns when there is something to write, after others had a moment to join.
func (l *Log) await(ctx context.Context) {
	var retry <-chan time.Time
	if l.failure.Load() != nil {
		t := time.NewTimer(retryEvery)
		defer t.Stop()
		retry = t.C
	}
	select {
	case <-ctx.Done():
		return
	case <-retry:
		return
	case <-l.wake:
	}
	if retry != nil { // nothing is taken before the disk is well again
		select {
		case <-ctx.Done():
		case <-retry:
		}
		return
	}
	t := time.NewTimer(linger)
	defer t.Stop()
	for {
		l.mu.Lock()
		hurry := l.urgent || len(l.queue) >= maxQueued/2 || l.bytes >= maxQueuedBytes/2
		l.mu.Unlock()
		if hurry {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			return
		case <-l.wake:
		}
	}
}

// flush renders what is queued and writes it. While the disk is failing, only what was
// rendered already is tried again.
func (l *Log) flush() {
	var waiting []chan error
	if len(l.writer.pending) == 0 {
		waiting = l.render()
	}
	if len(l.writer.pending) == 0 {
		return
	}
	lines, err := l.writer.write()
	for _, done := range waiting {
		if err != nil {
			done <- fmt.Errorf("%w: %w", ErrUnavailable, err)
		} else {
			done <- nil
		}
	}
	if err != nil {
		if l.failure.Load() == nil {
			l.cfg.Logger.Error("the audit log cannot be written: it is tried again each second", "error", err, "drop", l.cfg.Drop)
		}
		l.failure.Store(&err)
		l.refuse(err)
		return
	}
	if l.failure.Swap(nil) != nil {
		l.cfg.Logger.Info("the audit log is written again")
		l.signal()
	}
	l.grow(lines)
	l.prune()
}

// refuse tells those who wait for what is queued that it is not on disk. It stays queued.
func (l *Log) refuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.queue {
		if q := &l.queue[i]; q.done != nil {
			q.done <- fmt.Errorf("%w: %w", ErrUnavailable, err)
			q.done = nil
		}
	}
	l.urgent = false
}

// render takes the queue and makes records of it. It returns who waits for them.
func (l *Log) render() (waiting []chan error) {
	l.mu.Lock()
	queue, gap := l.queue, l.dropped
	l.queue, l.bytes, l.urgent, l.dropped = nil, 0, false, Gap{}
	close(l.room)
	l.room = make(chan struct{})
	l.mu.Unlock()
	counts := map[Kind]int{}
	add := func(kind Kind, body, private []byte) {
		l.writer.add(kind, body, private)
		counts[kind]++
	}
	for i := range queue {
		q := &queue[i]
		if q.done != nil {
			waiting = append(waiting, q.done)
		}
		if q.act != nil {
			add(Action, mustJSON(q.act), nil)
			continue
		}
		body, private, err := q.entry.Render()
		if err == nil && len(body)+len(private) > maxRecord {
			err = fmt.Errorf("it has %d bytes, %d are the most", len(body)+len(private), maxRecord)
		}
		if err != nil {
			l.cfg.Logger.Error("a decision could not be recorded", "error", err)
			now := l.cfg.Now().UTC().Truncate(time.Millisecond)
			body, private = mustJSON(&Gap{Dropped: 1, From: now, To: now, Reason: "the decision could not be recorded: " + err.Error()}), nil
			add(Missing, body, private)
			continue
		}
		add(Decision, body, private)
	}
	if gap.Dropped > 0 {
		add(Missing, mustJSON(&gap), nil)
	}
	for kind, n := range counts {
		l.cfg.Observe(string(kind), n)
	}
	return waiting
}

// mustJSON encodes what always can be.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // an Act and a Gap hold nothing that JSON cannot say
	}
	return b
}
