package policy

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/version"
)

// OPAVersion is the version of the Open Policy Agent that decides. Decisions that
// are kept should be kept with it: two versions may differ on the same policy.
var OPAVersion = version.Version

// Digest names a policy: the SHA-256 of its rules and of the principals that they
// name, the same on every peer.
type Digest [32]byte

// String is the digest in lower-case hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Decision is the outcome of one evaluation.
type Decision struct {
	Allowed bool
	ID      string // unique in this process and, but for chance, among processes
	Reason  string // which policy, what it needs and what it was given; for logs, not for remote callers
	Policy  Digest
}

// ids makes decision ids: a random prefix of the process and a counter.
type ids struct {
	prefix string
	next   atomic.Uint64
}

func newIDs() *ids {
	var b [6]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return &ids{prefix: hex.EncodeToString(b[:]) + "-"}
}

func (s *ids) take() string {
	var buf [40]byte
	b := append(buf[:0], s.prefix...)
	return string(strconv.AppendUint(b, s.next.Add(1), 16))
}
