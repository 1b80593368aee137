package auditlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Kind says what a record holds: the name of its member.
type Kind string

// The kinds of records.
const (
	Decision Kind = "decision" // what policy said: an event of OPA's decision log (EventV1)
	Action   Kind = "act"      // what an administrator, or the node itself, did: an Act
	Missing  Kind = "gap"      // decisions that were dropped: a Gap
)

// Record is one record, as it is told outside. Exactly one of its last three members
// is there.
type Record struct {
	Number   uint64          `json:"record"`   // counted from 0 without a gap
	Previous string          `json:"previous"` // SHA-256 of the record before, in hex; zeros for the first
	Decision json.RawMessage `json:"decision,omitempty"`
	Act      *Act            `json:"act,omitempty"`
	Gap      *Gap            `json:"gap,omitempty"`
}

// Act is one administrative act.
type Act struct {
	Name    string            `json:"name"` // such as "channel.join"
	Time    time.Time         `json:"time"` // set by the log if it is zero
	Actor   string            `json:"actor,omitempty"`
	Subject string            `json:"subject,omitempty"` // what it was done to
	Failed  string            `json:"failed,omitempty"`  // why it did not happen; empty when it did
	Details map[string]string `json:"details,omitempty"`
}

// Gap says that decisions were made whose records were dropped.
type Gap struct {
	Dropped uint64    `json:"dropped"`
	From    time.Time `json:"from"` // when the first of them was dropped
	To      time.Time `json:"to"`   // and the last
	Reason  string    `json:"reason"`
}

// Hash is the SHA-256 of a record's bytes.
type Hash = [sha256.Size]byte

// form makes a record's bytes: one line of JSON, without its end. body is the value of
// the kind's member.
func form(number uint64, previous Hash, kind Kind, body []byte) []byte {
	b := make([]byte, 0, len(body)+120)
	b = append(b, `{"record":`...)
	b = strconv.AppendUint(b, number, 10)
	b = append(b, `,"previous":"`...)
	b = hex.AppendEncode(b, previous[:])
	b = append(b, `","`...)
	b = append(b, kind...)
	b = append(b, `":`...)
	b = append(b, body...)
	return append(b, '}')
}

// ParseRecord reads a record's bytes. What it accepts has one of the three members.
func ParseRecord(line []byte) (*Record, error) {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	r := &Record{}
	if err := dec.Decode(r); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	if dec.More() {
		return nil, errors.New("record: something follows it on its line")
	}
	members := 0
	for _, there := range []bool{len(r.Decision) > 0, r.Act != nil, r.Gap != nil} {
		if there {
			members++
		}
	}
	if members != 1 {
		return nil, fmt.Errorf("record %d holds %d of decision, act and gap: exactly one is needed", r.Number, members)
	}
	return r, nil
}

// Kind is which member the record has.
func (r *Record) Kind() Kind {
	switch {
	case r.Act != nil:
		return Action
	case r.Gap != nil:
		return Missing
	}
	return Decision
}

// Chain checks that records follow each other. Its zero value accepts any record as
// the first one that it sees, and nothing but record 0 with no predecessor as record 0.
type Chain struct {
	begun bool
	next  uint64
	last  Hash
}

// Add takes the next record's bytes. The error says what is wrong with it; the chain
// then goes on from this record.
func (c *Chain) Add(line []byte) (*Record, error) {
	r, err := ParseRecord(line)
	if err != nil {
		return nil, err
	}
	want, begun, last := c.next, c.begun, c.last
	c.begun, c.next, c.last = true, r.Number+1, sha256.Sum256(line)
	switch {
	case !begun && r.Number == 0 && r.Previous != hex.EncodeToString(make([]byte, sha256.Size)):
		return r, errors.New("record 0 names a record before it")
	case !begun:
		return r, nil
	case r.Number > want:
		return r, fmt.Errorf("record %d follows record %d: %d records are missing", r.Number, want-1, r.Number-want)
	case r.Number < want:
		return r, fmt.Errorf("record %d follows record %d: records were put in another order, or stand twice", r.Number, want-1)
	case r.Previous != hex.EncodeToString(last[:]):
		return r, fmt.Errorf("record %d says that the record before it has the hash %.16s…, which is %x…: one of them was changed or put elsewhere", r.Number, r.Previous, last[:8])
	}
	return r, nil
}

// Next is the number of the record that would follow.
func (c *Chain) Next() uint64 { return c.next }
