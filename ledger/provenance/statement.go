package provenance

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

const (
	// StatementType is the _type of an in-toto Statement v1.
	StatementType = "https://in-toto.io/Statement/v1"
	// PredicateType names the predicate and its version.
	PredicateType = "https://strongroom.dev/provenance/block/v1"
	// PayloadType is the DSSE payloadType of an in-toto statement in JSON.
	PayloadType = "application/vnd.in-toto+json"
	// ClockSource is what the time in a statement was read from.
	ClockSource = "host clock"
)

// Schema is the JSON schema of the predicate.
//
//go:embed schema.json
var Schema []byte

// Statement is an in-toto Statement v1 about one block. All digests and hashes are
// in lower-case hex.
type Statement struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"` // exactly one
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

// Subject is the file header.der of a block: the ASN.1 form of its header, whose
// SHA-256 is the Fabric block hash.
type Subject struct {
	Name   string            `json:"name"`   // "<channel>/<number>/header.der"
	Digest map[string]string `json:"digest"` // sha256 alone
}

// Predicate is what this peer says about a block.
type Predicate struct {
	Channel           string         `json:"channel"`
	Number            uint64         `json:"number"`
	PreviousHash      string         `json:"previous_hash"`
	DataHash          string         `json:"data_hash"`
	MetadataDigest    string         `json:"metadata_digest"` // see MetadataDigest
	Transactions      Transactions   `json:"transactions"`
	CommitHash        string         `json:"commit_hash"` // "" for a block without one, as the genesis block
	OrdererSigners    []Identity     `json:"orderer_signers"`
	Policies          []Policy       `json:"policies"` // sorted by namespace
	OPAVersion        string         `json:"opa_version"`
	PolicyBundles     []PolicyBundle `json:"policy_bundles"`
	HSM               HSM            `json:"hsm"`
	Signer            Identity       `json:"signer"`
	Software          Software       `json:"software"`
	PreviousStatement string         `json:"previous_statement"` // SHA-256 of the payload before this one, "" for the first
	Time              Time           `json:"time"`
}

// Transactions are the verdicts on a block's transactions.
type Transactions struct {
	Count int            `json:"count"`
	Flags string         `json:"flags"` // one byte for each transaction: its protos.TxValidationCode
	Codes map[string]int `json:"codes"` // how many have each code, by its name
}

// Identity is who signed: an MSP member by its certificate.
type Identity struct {
	MSPID             string `json:"mspid"`
	Subject           string `json:"subject"`            // RFC 2253
	CertificateSHA256 string `json:"certificate_sha256"` // of the DER form
}

// Policy is the endorsement policy that judged a namespace's writes.
type Policy struct {
	Namespace string `json:"namespace"`
	Digest    string `json:"digest"`
}

// PolicyBundle is a team's own Rego that was in force.
type PolicyBundle struct {
	Name     string `json:"name"`
	Revision string `json:"revision,omitempty"`
	Digest   string `json:"digest"` // SHA-256 of the bundle's archive
}

// HSM is the token that signed the statement, as it describes itself.
type HSM struct {
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Serial       string `json:"serial"`
	Firmware     string `json:"firmware"`
	Profile      string `json:"profile,omitempty"` // id of the firmware profile that it was held to
	KeyID        string `json:"key_id"`            // SHA-256 of the signing key's SubjectPublicKeyInfo
}

// Software is the program that made the statement.
type Software struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Build   string `json:"build,omitempty"` // SHA-256 of the executable
}

// Time is when the statement was made.
type Time struct {
	Value  time.Time `json:"value"` // UTC, RFC 3339
	Source string    `json:"source"`
}

// SubjectName is the name of a block's subject.
func SubjectName(channel string, number uint64) string {
	return channel + "/" + strconv.FormatUint(number, 10) + "/header.der"
}

// MetadataDigest is the SHA-256 over the slots of a block's metadata, each with its
// length before it (8 bytes, big-endian): independent of how the message is encoded.
func MetadataDigest(m *commonpb.BlockMetadata) []byte {
	h := sha256.New()
	var length [8]byte
	for _, slot := range m.GetMetadata() {
		binary.BigEndian.PutUint64(length[:], uint64(len(slot)))
		h.Write(length[:])
		h.Write(slot)
	}
	return h.Sum(nil)
}

// transactions counts the verdicts.
func transactions(flags []byte) Transactions {
	t := Transactions{Count: len(flags), Flags: hex.EncodeToString(flags), Codes: make(map[string]int)}
	for _, f := range flags {
		t.Codes[peerpb.TxValidationCode(f).String()]++
	}
	return t
}

// subject is the subject of a block.
func subject(channel string, header *commonpb.BlockHeader) []Subject {
	return []Subject{{
		Name:   SubjectName(channel, header.GetNumber()),
		Digest: map[string]string{"sha256": hex.EncodeToString(wire.BlockHash(header))},
	}}
}

// ParseStatement reads the payload of a statement. It accepts exactly the bytes that
// this package makes: no unknown, doubled or missing field, no other spelling.
func ParseStatement(payload []byte) (*Statement, error) {
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	var s Statement
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	again, err := json.Marshal(&s)
	if err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	if !bytes.Equal(again, payload) {
		return nil, fmt.Errorf("statement is not in its one form: it differs from what its content gives at byte %d", differ(again, payload))
	}
	if s.Type != StatementType {
		return nil, fmt.Errorf("statement is of type %q, not %q", s.Type, StatementType)
	}
	if s.PredicateType != PredicateType {
		return nil, fmt.Errorf("predicate is of type %q, not %q", s.PredicateType, PredicateType)
	}
	return &s, s.consistent()
}

// consistent checks what the statement says twice.
func (s *Statement) consistent() error {
	p := &s.Predicate
	if len(s.Subject) != 1 || len(s.Subject[0].Digest) != 1 {
		return fmt.Errorf("statement must have one subject with a sha256 digest alone")
	}
	if want := SubjectName(p.Channel, p.Number); s.Subject[0].Name != want {
		return fmt.Errorf("subject is %q, channel and number make it %q", s.Subject[0].Name, want)
	}
	flags, err := hex.DecodeString(p.Transactions.Flags)
	if err != nil {
		return fmt.Errorf("transactions.flags: %w", err)
	}
	want := transactions(flags)
	if p.Transactions.Count != want.Count || len(p.Transactions.Codes) != len(want.Codes) {
		return fmt.Errorf("transactions: count and codes do not belong to the flags")
	}
	for code, n := range want.Codes {
		if p.Transactions.Codes[code] != n {
			return fmt.Errorf("transactions: the flags hold %d of %s, the statement says %d", n, code, p.Transactions.Codes[code])
		}
	}
	return nil
}

// differ is the first byte at which a and b differ.
func differ(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
