package decisions

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/open-policy-agent/opa/v1/ast"

	"strongroom/policy"
)

// Entry is what a Store renders later, once, on one goroutine.
type Entry interface {
	Render() (decision, private []byte, err error)
}

// Store is the node's audit log. size is about what the entry holds in memory, in bytes.
type Store interface {
	Put(ctx context.Context, e Entry, size int) error
}

// StoreFunc is a Store.
type StoreFunc func(ctx context.Context, e Entry, size int) error

// Put calls f.
func (f StoreFunc) Put(ctx context.Context, e Entry, size int) error { return f(ctx, e, size) }

// Config is what a Log needs.
type Config struct {
	Store Store
	// Labels stand in each event: which node decided.
	Labels map[string]string
}

// rememberedEntries is how many rendered events are remembered.
const rememberedEntries = 4096

// largestRemembered bounds one of them, in bytes.
const largestRemembered = 16 << 10

// Log is a Sink that keeps events in a Store. It is safe for concurrent use.
type Log struct {
	store  Store
	labels []byte
	mask   atomic.Pointer[policy.Mask]
	// rendered is of the store's goroutine alone.
	rendered *lru.Cache[memory, *rendered]
}

// memory is what a rendered event depends on.
type memory struct {
	same any
	mask *policy.Mask
}

// New makes a Log without a mask.
func New(cfg Config) (*Log, error) {
	labels, err := json.Marshal(cfg.Labels)
	if err != nil {
		return nil, fmt.Errorf("decision log: %w", err)
	}
	l := &Log{store: cfg.Store, labels: labels}
	if l.rendered, err = lru.New[memory, *rendered](rememberedEntries); err != nil {
		return nil, fmt.Errorf("decision log: %w", err)
	}
	return l, nil
}

// Mask puts a mask in force; nil takes it away. Events that were not rendered yet come
// under the new one.
func (l *Log) Mask(m *policy.Mask) { l.mask.Store(m) }

// overhead is what an event holds besides its Size.
const overhead = 512

// Decided queues an event.
func (l *Log) Decided(ctx context.Context, e *Event) error {
	e.log = l
	if err := l.store.Put(ctx, e, overhead+e.Size); err != nil {
		return fmt.Errorf("%w: %w", ErrNotKept, err)
	}
	return nil
}

// Private is what lies beside a decision's record and is not told with it.
type Private struct {
	Salt string `json:"salt"` // hex
}

// rendered is what equal events have in common.
type rendered struct {
	bundles, path, input, result, masked []byte // JSON; masked are the members erased and masked
	full                                 []byte // the unmasked input
	problem                              string // of the mask, "" if there is none
}

// Render makes the record, for the Store that the event was put into. Its members stand in
// the order of EventV1.
func (e *Event) Render() (decision, private []byte, err error) {
	r, err := e.log.render(e)
	if err != nil {
		return nil, nil, err
	}
	salt := make([]byte, 16)
	rand.Read(salt) // never fails (crypto/rand)
	sum := InputHash(salt, r.full)
	b := make([]byte, 0, len(r.input)+len(r.result)+len(e.log.labels)+512)
	b = append(append(b, `{"labels":`...), e.log.labels...)
	b = appendMember(b, "decision_id", e.ID)
	if r.bundles != nil {
		b = append(append(b, `,"bundles":`...), r.bundles...)
	}
	b = append(append(b, `,"path":`...), r.path...)
	b = append(append(b, `,"input":`...), r.input...)
	b = append(append(b, `,"result":`...), r.result...)
	b = append(b, r.masked...)
	if e.RequestedBy != "" {
		b = appendMember(b, "requested_by", e.RequestedBy)
	}
	b = appendMember(b, "timestamp", e.Time.UTC().Format(time.RFC3339Nano))
	b = append(b, `,"metrics":{"timer_server_handler_ns":`...)
	b = strconv.AppendInt(b, e.Took.Nanoseconds(), 10)
	b = appendMember(append(b, `},"custom":{"engine":"opa"`...), "opa_version", policy.OPAVersion)
	b = appendMember(b, "input_sha256", hex.EncodeToString(sum[:]))
	if e.Bundle.Revision > 0 {
		b = appendMember(b, "bundle_sha256", e.Bundle.Digest.String())
	}
	if r.problem != "" {
		b = appendMember(b, "mask_error", r.problem)
	}
	b = append(b, `}}`...)
	private, err = json.Marshal(Private{Salt: hex.EncodeToString(salt)})
	return b, private, err
}

// InputHash is what a record's custom.input_sha256 is: of the salt and the input as
// CanonicalInput writes it.
func InputHash(salt, input []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(salt)
	h.Write(input)
	return [sha256.Size]byte(h.Sum(nil))
}

func appendMember(b []byte, name, value string) []byte {
	b = append(b, `,"`...)
	b = append(append(b, name...), `":`...)
	v, err := json.Marshal(value)
	if err != nil {
		panic(err) // a string always encodes
	}
	return append(b, v...)
}

func (l *Log) render(e *Event) (*rendered, error) {
	mask := l.mask.Load()
	same := e.About.Same()
	if same != nil {
		if r, ok := l.rendered.Get(memory{same, mask}); ok {
			return r, nil
		}
	}
	r, err := render(e, mask)
	if err != nil {
		return nil, err
	}
	if same != nil && len(r.input)+len(r.full) <= largestRemembered {
		l.rendered.Add(memory{same, mask}, r)
	}
	return r, nil
}

func render(e *Event, mask *policy.Mask) (*rendered, error) {
	r := &rendered{}
	var err error
	if r.path, err = json.Marshal(e.Path); err != nil {
		return nil, err
	}
	if e.Bundle.Revision > 0 {
		r.bundles = fmt.Appendf(nil, `{"policy":{"revision":"%d"}}`, e.Bundle.Revision)
	}
	result := e.About.Result()
	if r.result, err = json.Marshal(&result); err != nil {
		return nil, err
	}
	input, err := e.input()
	if err != nil {
		return nil, err
	}
	if r.full, err = json.Marshal(input); err != nil {
		return nil, err
	}
	r.input = r.full
	if mask == nil {
		return r, nil
	}
	if err := r.apply(mask); err != nil {
		// Better an event of which too little can be read than one of which too much can.
		r.problem = err.Error()
		r.input, r.result = []byte("null"), fmt.Appendf(nil, `{"allow":%t}`, result.Allow)
		r.masked = []byte(`,"erased":["/input","/result"]`)
	}
	return r, nil
}

// input is what the rules saw, as JSON values.
func (e *Event) input() (any, error) {
	v, err := e.About.Input()
	if err != nil {
		return nil, fmt.Errorf("decision %s: its input: %w", e.ID, err)
	}
	if v == nil {
		return nil, nil
	}
	return ast.JSON(v)
}

// CanonicalInput is an input, given as JSON, in the form that its hash is over.
func CanonicalInput(raw []byte) ([]byte, error) {
	v, err := ast.ValueFromReader(newReader(raw))
	if err != nil {
		return nil, fmt.Errorf("input: %w", err)
	}
	j, err := ast.JSON(v)
	if err != nil {
		return nil, fmt.Errorf("input: %w", err)
	}
	return json.Marshal(j)
}
