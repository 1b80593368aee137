package auditlog

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"strongroom/ledger/translog"
)

// A slice is a range of a log's records in a file of lines:
//
//	{"format": …, "origin": …, "from": …, "to": …, "certificate": …}   a Head
//	records, one a line, without a gap
//	{"checkpoint": …, "proof": […]}                                    a Tail
//
// Because each record names the hash of the one before, the proof that the last one is
// in the checkpoint's tree stands for all of them. After a record there may be a line
// {"private": …} with its private part, which nothing vouches for.

// SliceFormat names this layout.
const SliceFormat = "strongroom-audit-log/1"

// Head begins a slice.
type Head struct {
	Format      string `json:"format"`
	Origin      string `json:"origin"`      // of the log
	From        uint64 `json:"from"`        // number of the first record
	To          uint64 `json:"to"`          // and of the last
	Certificate string `json:"certificate"` // PEM, of the key that signed the checkpoint
}

// Tail ends it.
type Tail struct {
	Checkpoint string   `json:"checkpoint"` // signed note
	Proof      [][]byte `json:"proof"`      // that the last record is in its tree
}

// Private is what may stand after a record.
type Private struct {
	Private json.RawMessage `json:"private"`
}

// Range bounds a slice.
type Range struct {
	From uint64 // the first record, or the first that is kept
	// End is the number after the last record; 0 stands for all that the latest checkpoint
	// covers.
	End     uint64
	Private bool // with private parts
}

// ErrEmpty says that no checkpoint covers a record of the range yet.
var ErrEmpty = errors.New("audit log: no checkpoint covers such records yet")

// WriteSlice writes records of the log in a folder, which may be in use by the node that
// writes it. certificate is the node's, in PEM.
func WriteSlice(w io.Writer, dir string, o Opener, certificate []byte, rg Range) (_ *Head, err error) {
	note, c, err := ReadCheckpoint(dir)
	if err != nil {
		return nil, err
	}
	if c == nil || rg.From >= c.Size || rg.End > c.Size {
		return nil, ErrEmpty
	}
	if rg.End == 0 {
		rg.End = c.Size
	}
	if rg.From >= rg.End {
		return nil, fmt.Errorf("audit log: record %d is after record %d", rg.From, rg.End-1)
	}
	r, err := OpenReader(dir, o, rg.From)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if r.next >= rg.End {
		return nil, fmt.Errorf("audit log: records up to %d are not kept any more: the first is %d", rg.End-1, r.next)
	}
	if err := certifies(certificate, c.Origin); err != nil {
		return nil, err
	}
	head := &Head{Format: SliceFormat, Origin: c.Origin, From: r.next, To: rg.End - 1, Certificate: string(certificate)}
	out := bufio.NewWriterSize(w, 1<<18)
	line := func(v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, err = out.Write(append(b, '\n'))
		return err
	}
	if err := line(head); err != nil {
		return nil, err
	}
	for number := head.From; number <= head.To; number++ {
		s, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", number, err)
		}
		if _, err := out.Write(append(s.Line, '\n')); err != nil {
			return nil, err
		}
		if rg.Private && len(s.Private) > 0 {
			if err := line(Private{s.Private}); err != nil {
				return nil, err
			}
		}
	}
	tail, err := tailOf(dir, o, note, c, head.To)
	if err != nil {
		return nil, err
	}
	if err := line(tail); err != nil {
		return nil, err
	}
	return head, out.Flush()
}

// certifies checks that a certificate is of the key whose log it is.
func certifies(certificate []byte, origin string) error {
	block, _ := pem.Decode(certificate)
	if block == nil {
		return errors.New("audit log: the node's certificate is not PEM")
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("audit log: the node's certificate: %w", err)
	}
	if id := fmt.Sprintf("%x", sha256.Sum256(parsed.RawSubjectPublicKeyInfo)); Origin(id) != origin {
		return fmt.Errorf("audit log: the node's certificate is of the key %s, the checkpoint is signed by another key (%s): wait for the node to sign the next", id, origin)
	}
	return nil
}

func tailOf(dir string, o Opener, note []byte, c *translog.Checkpoint, last uint64) (_ *Tail, err error) {
	get, done := leaves(dir, o)
	defer func() { err = errors.Join(err, done()) }()
	tree, err := translog.Open(dir, c.Size, get)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	proof, err := translog.InclusionProof(tree, last, c.Size)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	t := &Tail{Checkpoint: string(note), Proof: [][]byte{}}
	for i := range proof {
		t.Proof = append(t.Proof, proof[i][:])
	}
	return t, nil
}

// Visitor is told what VerifySlice reads. Any of its functions may be nil.
type Visitor struct {
	// Head is called first, and says by which key the checkpoint must be signed: its
	// SubjectPublicKeyInfo, and a check of a signature over a text.
	Head func(h *Head) (spki []byte, check func(text, sig []byte) error, err error)
	// Record is called for each record whose form is right.
	Record func(r *Record, line []byte) error
	// Private is called for the private part of a record.
	Private func(number uint64, private []byte) error
	// Finding is called for everything that does not hold.
	Finding func(what string)
}

// Verified is what VerifySlice found of a slice.
type Verified struct {
	Head    Head
	Records uint64
	Size    uint64 // of the log at its checkpoint
	Signed  bool   // the checkpoint is signed and has the last record
}

// maxLine bounds a line of a slice.
const maxLine = 2 * maxRecord

// VerifySlice reads a slice and checks that its records follow each other without a gap,
// and that its last is in the log whose checkpoint is signed. What does not hold is told
// to v.Finding; an error means that the slice cannot be read, or that v returned one.
func VerifySlice(r io.Reader, v Visitor) (*Verified, error) {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 1<<16), maxLine)
	if !s.Scan() {
		return nil, errors.Join(errors.New("slice of an audit log: it is empty"), s.Err())
	}
	out := &Verified{}
	if err := strict(s.Bytes(), &out.Head); err != nil || out.Head.Format != SliceFormat {
		return nil, errors.Join(fmt.Errorf("slice of an audit log: its first line does not have the format %q", SliceFormat), err)
	}
	spki, check, err := v.Head(&out.Head)
	if err != nil {
		return nil, err
	}
	var chain Chain
	var last []byte
	var tail *Tail
	for s.Scan() {
		line := s.Bytes()
		if tail != nil {
			v.Finding("something follows the checkpoint: it was added")
			break
		}
		switch {
		case bytes.HasPrefix(line, []byte(`{"private":`)):
			var p Private
			if err := strict(line, &p); err != nil || chain.next == 0 {
				v.Finding(fmt.Sprintf("after record %d: a private part that cannot be read", chain.next))
				continue
			}
			if v.Private != nil {
				if err := v.Private(chain.next-1, p.Private); err != nil {
					return nil, err
				}
			}
			continue
		case bytes.HasPrefix(line, []byte(`{"checkpoint":`)):
			tail = &Tail{}
			if err := strict(line, tail); err != nil {
				v.Finding(fmt.Sprintf("the last line cannot be read: %v", err))
			}
			continue
		}
		record, err := chain.Add(line)
		if record == nil {
			v.Finding(fmt.Sprintf("line %d: %v", out.Records+2, err))
			continue
		}
		if err != nil {
			v.Finding(err.Error())
		} else if out.Records == 0 && record.Number != out.Head.From {
			v.Finding(fmt.Sprintf("the slice begins with record %d, its head says %d: records are missing", record.Number, out.Head.From))
		}
		out.Records++
		last = append(last[:0], line...)
		if v.Record != nil {
			if err := v.Record(record, last); err != nil {
				return nil, err
			}
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("slice of an audit log: %w", err)
	}
	if out.Records > 0 && chain.Next() != out.Head.To+1 {
		v.Finding(fmt.Sprintf("the slice ends with record %d, its head says %d: records are missing", chain.Next()-1, out.Head.To))
	}
	if err := out.vouch(tail, &chain, last, spki, check); err != nil {
		v.Finding(err.Error())
	}
	return out, nil
}

// vouch checks the checkpoint and that the last record is in its tree.
func (out *Verified) vouch(tail *Tail, chain *Chain, last, spki []byte, check func(text, sig []byte) error) error {
	if tail == nil {
		return errors.New("the slice has no checkpoint: its end is missing")
	}
	if out.Records == 0 {
		return errors.New("the slice has no records")
	}
	c, sig, err := translog.ParseNote([]byte(tail.Checkpoint), spki)
	if err != nil {
		return err
	}
	if c.Origin != out.Head.Origin {
		return fmt.Errorf("the checkpoint is of the log %q, the slice says %q", c.Origin, out.Head.Origin)
	}
	if err := check(c.Text(), sig); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	proof := make([]translog.Hash, len(tail.Proof))
	for i, h := range tail.Proof {
		if len(h) != translog.HashSize {
			return fmt.Errorf("proof: hash %d has %d bytes", i, len(h))
		}
		proof[i] = translog.Hash(h)
	}
	if err := translog.VerifyInclusion(proof, chain.Next()-1, c.Size, translog.LeafHash(last), c.Root); err != nil {
		return fmt.Errorf("record %d is not in the log that the checkpoint speaks of: it, or one before it, was changed: %w", chain.Next()-1, err)
	}
	out.Size, out.Signed = c.Size, true
	return nil
}

func strict(line []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if dec.More() {
		return errors.New("something follows on the line")
	}
	return nil
}
