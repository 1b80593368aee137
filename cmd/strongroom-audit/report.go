package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"strongroom/ledger/evidence"
	"strongroom/ledger/provenance"
	"strongroom/msp"
)

// Report is the outcome of a verification.
type Report struct {
	Channel      string         `json:"channel"`
	From         uint64         `json:"from"`
	To           uint64         `json:"to"`
	ConfigHash   string         `json:"configHash"` // block hash of config.block: the root of trust
	LastHash     string         `json:"lastHash"`
	Signer       string         `json:"signer"`   // who signed statements, checkpoint and pack
	Exported     string         `json:"exported"` // when and for whom, as the peer says
	Devices      []string       `json:"devices"`  // HSMs, software and policy engines that the statements name
	Files        int            `json:"files"`
	Log          *LogReport     `json:"log"` // null without a good checkpoint
	Replay       ReplayReport   `json:"replay"`
	Transactions int64          `json:"transactions"`
	Codes        map[string]int `json:"codes"`
	Signatures   int64          `json:"signatures"` // that were checked and are good
	Ignored      int64          `json:"ignored"`    // false endorsements of valid transactions, which policies do not count
	Members      []Member       `json:"members"`
	Policies     []PolicyUse    `json:"policies"`
	Findings     []Finding      `json:"findings"`
}

// LogReport is about the transparency log.
type LogReport struct {
	Origin     string `json:"origin"`
	Size       uint64 `json:"size"`
	Root       string `json:"root"`
	First      uint64 `json:"first"`      // number in the log of the range's first statement
	Statements uint64 `json:"statements"` // of the range that are proven to be in it
}

// ReplayReport says whether the peer's verdicts were computed again.
type ReplayReport struct {
	Blocks uint64 `json:"blocks"` // whose verdicts were
	Reason string `json:"reason"` // why not all; "" if all were
}

// Member is who signed valid transactions, and how many.
type Member struct {
	MSPID     string `json:"mspId"`
	Subject   string `json:"subject"`
	Submitted int64  `json:"submitted"`
	Endorsed  int64  `json:"endorsed"`
}

// PolicyUse is an endorsement policy, by its digest, and where it began to judge.
type PolicyUse struct {
	Namespace string `json:"namespace"`
	Digest    string `json:"digest"`
	Block     uint64 `json:"block"` // the first of the range that it judged
}

// Finding is something that does not verify.
type Finding struct {
	Block  *uint64 `json:"block,omitempty"` // nil if it is about no block in particular
	Detail string  `json:"detail"`
}

// String names the block, if there is one.
func (f Finding) String() string {
	if f.Block == nil {
		return f.Detail
	}
	return fmt.Sprintf("block %d: %s", *f.Block, f.Detail)
}

// policy notes that a policy judged a block.
func (r *Report) policy(namespace, digest string, block uint64) {
	for _, p := range r.Policies {
		if p.Namespace == namespace && p.Digest == digest {
			return
		}
	}
	r.Policies = append(r.Policies, PolicyUse{namespace, digest, block})
}

// hsm notes what made a statement.
func (r *Report) hsm(p *provenance.Predicate) {
	device := fmt.Sprintf("%s %s, serial %s, firmware %s", p.HSM.Manufacturer, p.HSM.Model, p.HSM.Serial, p.HSM.Firmware)
	if p.HSM.Profile != "" {
		device += ", profile " + p.HSM.Profile
	}
	device += fmt.Sprintf("; %s %s", p.Software.Name, p.Software.Version)
	if p.Software.Build != "" {
		device += ", executable with SHA-256 " + p.Software.Build
	}
	device += ", OPA " + p.OPAVersion
	if !slices.Contains(r.Devices, device) {
		r.Devices = append(r.Devices, device)
	}
}

func (r *Report) print(w io.Writer, format string) error {
	if format == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	fmt.Fprintf(w, "channel       %s, blocks %d to %d\n", r.Channel, r.From, r.To)
	fmt.Fprintf(w, "trust root    config.block with hash %s\n", r.ConfigHash)
	fmt.Fprintf(w, "last block    %s\n", r.LastHash)
	fmt.Fprintf(w, "signed by     %s\n", r.Signer)
	fmt.Fprintf(w, "exported      %s\n", r.Exported)
	if r.Log != nil {
		fmt.Fprintf(w, "log           %d statements proven in a log of %d with root %s\n", r.Log.Statements, r.Log.Size, r.Log.Root)
	}
	if r.Replay.Reason == "" {
		fmt.Fprintf(w, "verdicts      all computed again, on %d blocks\n", r.Replay.Blocks)
	} else {
		fmt.Fprintf(w, "verdicts      computed again on %d blocks: %s\n", r.Replay.Blocks, r.Replay.Reason)
	}
	fmt.Fprintf(w, "files         %d\n", r.Files)
	fmt.Fprintf(w, "transactions  %d %v\n", r.Transactions, r.Codes)
	fmt.Fprintf(w, "signatures    %d good", r.Signatures)
	if r.Ignored > 0 {
		fmt.Fprintf(w, ", %d false endorsements that no policy counts", r.Ignored)
	}
	fmt.Fprintln(w)
	for _, m := range r.Members {
		fmt.Fprintf(w, "member        %s of %s: submitted %d, endorsed %d\n", m.Subject, m.MSPID, m.Submitted, m.Endorsed)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(w, "FINDING       %s\n", f)
	}
	if len(r.Findings) == 0 {
		fmt.Fprintln(w, "VERIFIED      every file, block, signature and statement of the range holds")
	}
	return nil
}

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Parse(page))

// html writes the report as a page that needs nothing else.
func (r *Report) html(w io.Writer) error { return pageTemplate.Execute(w, r) }

// sums are the SHA-256 of the files that were read, by name: some 150 bytes a file.
type sums map[string][sha256.Size]byte

func (s sums) add(f *evidence.File) { s[f.Name] = sha256.Sum256(f.Data) }

// compare holds the files that were read against SHA256SUMS.
func (s sums) compare(text []byte) []string {
	if text == nil {
		return []string{"SHA256SUMS is missing"}
	}
	var problems []string
	listed := map[string]bool{}
	for line := range bytes.Lines(text) {
		digest, name, ok := strings.Cut(strings.TrimSuffix(string(line), "\n"), "  ")
		got, read := s[name]
		switch {
		case !ok || listed[name]:
			problems = append(problems, fmt.Sprintf("SHA256SUMS: line %q cannot be", line))
		case !read:
			problems = append(problems, name+" is listed in SHA256SUMS and missing")
		case fmt.Sprintf("%x", got) != digest:
			problems = append(problems, fmt.Sprintf("%s was changed: its SHA-256 is %x, SHA256SUMS says %s", name, got, digest))
		}
		listed[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if !listed[name] {
			problems = append(problems, name+" is not listed in SHA256SUMS")
		}
	}
	return problems
}

// members counts who signed what.
type members struct {
	mu    sync.Mutex // guards found: transactions are checked in parallel
	found map[memberName]*Member
}

type memberName struct {
	mspID   msp.ID
	subject string
}

func (m *members) count(id *msp.Identity, add func(*Member)) {
	name := memberName{id.MSPID, id.Certificate.Subject.String()}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.found == nil {
		m.found = map[memberName]*Member{}
	}
	if m.found[name] == nil {
		m.found[name] = &Member{MSPID: string(id.MSPID), Subject: name.subject}
	}
	add(m.found[name])
}

func (m *members) sorted() []Member {
	out := make([]Member, 0, len(m.found))
	for _, one := range m.found {
		out = append(out, *one)
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Or(cmp.Compare(a.MSPID, b.MSPID), cmp.Compare(a.Subject, b.Subject)) })
	return out
}
