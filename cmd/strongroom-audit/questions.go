package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
)

// Write is what a transaction wrote.
type Write struct {
	Namespace  string `json:"namespace"`
	Collection string `json:"collection,omitempty"` // of private data, of which only hashes are known
	Key        string `json:"key,omitempty"`
	KeyHash    string `json:"keyHash,omitempty"` // SHA-256, of a private key
	Value      []byte `json:"value,omitempty"`   // base64; of a public key
	ValueHash  string `json:"valueHash,omitempty"`
	Deleted    bool   `json:"deleted,omitempty"`
	Metadata   bool   `json:"metadata,omitempty"` // the key's metadata were written, as its endorsement policy
}

// writes lists what a transaction writes, in the order of the message.
func writes(tx *wire.Tx) []Write {
	if tx.Endorsed == nil || tx.Endorsed.ReadWriteSet == nil {
		return nil
	}
	var out []Write
	for _, n := range tx.Endorsed.ReadWriteSet.Namespaces {
		for _, w := range n.KV.GetWrites() {
			out = append(out, publicWrite(n.Namespace, w))
		}
		for _, m := range n.KV.GetMetadataWrites() {
			out = append(out, Write{Namespace: n.Namespace, Key: m.GetKey(), Metadata: true})
		}
		for _, c := range n.Collections {
			for _, w := range c.Hashed.GetHashedWrites() {
				out = append(out, privateWrite(n.Namespace, c.Collection, w))
			}
			for _, m := range c.Hashed.GetMetadataWrites() {
				out = append(out, Write{Namespace: n.Namespace, Collection: c.Collection, KeyHash: hex.EncodeToString(m.GetKeyHash()), Metadata: true})
			}
		}
	}
	return out
}

func publicWrite(namespace string, w *kvrwsetpb.KVWrite) Write {
	return Write{Namespace: namespace, Key: w.GetKey(), Value: w.GetValue(), Deleted: w.GetIsDelete()}
}

func privateWrite(namespace, collection string, w *kvrwsetpb.KVWriteHash) Write {
	return Write{
		Namespace: namespace, Collection: collection,
		KeyHash: hex.EncodeToString(w.GetKeyHash()), ValueHash: hex.EncodeToString(w.GetValueHash()),
		Deleted: w.GetIsDelete() || w.GetIsPurge(),
	}
}

// String is the write in a line.
func (w *Write) String() string {
	where := fmt.Sprintf("%s %q", w.Namespace, w.Key)
	if w.Collection != "" {
		where = fmt.Sprintf("%s, collection %s, key with SHA-256 %s", w.Namespace, w.Collection, w.KeyHash)
	}
	switch {
	case w.Metadata:
		return where + ": the key's endorsement policy or other metadata"
	case w.Deleted:
		return where + ": deleted"
	case w.Collection != "":
		return where + ": a value with SHA-256 " + w.ValueHash
	}
	return where + " = " + readable(w.Value)
}

// readable shows a value: as it is if that prints well, else in hexadecimal.
func readable(value []byte) string {
	const most = 400
	cut := value[:min(len(value), most)]
	text := string(cut)
	if !utf8.Valid(value) || strings.ContainsFunc(text, unicode.IsControl) {
		text = fmt.Sprintf("%#x", cut[:min(len(cut), most/2)])
	}
	if len(value) > most {
		text += fmt.Sprintf("… (%d bytes, SHA-256 %x)", len(value), sha256.Sum256(value))
	}
	return text
}

// aboutTransaction is asked by a transaction id.
type aboutTransaction struct {
	TxID    string            `json:"txId"`
	Entries []transactionSeen `json:"entries"` // more than one if the id was used again; one at most is valid
}

type transactionSeen struct {
	Entry
	Reads  int     `json:"reads"`
	Writes []Write `json:"writes"`
}

func txCommand() *cobra.Command {
	var flags askFlags
	cmd := &cobra.Command{
		Use:     "tx ID",
		Short:   "Say what a pack shows of a transaction: where, who, what it wrote, under which policy",
		Long:    "Finds a transaction by its id: who submitted and endorsed it, the verdict, what it wrote, under\nwhich policy, and the files that prove it." + askLong,
		Example: "  strongroom-audit tx 3f2a… --pack pack.tar.zst --extract evidence",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.ask(cmd, &aboutTransaction{TxID: args[0], Entries: []transactionSeen{}})
		},
	}
	flags.add(cmd)
	return cmd
}

func (q *aboutTransaction) see(b *seenBlock) bool {
	found := false
	for i, tx := range b.Txs {
		if tx.IndexID() != q.TxID {
			continue
		}
		found = true
		seen := transactionSeen{Entry: b.entry(i), Writes: writes(tx)}
		if tx.Endorsed != nil && tx.Endorsed.ReadWriteSet != nil {
			for _, n := range tx.Endorsed.ReadWriteSet.Namespaces {
				seen.Reads += len(n.KV.GetReads())
			}
		}
		q.Entries = append(q.Entries, seen)
	}
	return found
}

func (q *aboutTransaction) print(w io.Writer) {
	for i := range q.Entries {
		e := &q.Entries[i]
		e.Entry.print(w)
		for j := range e.Writes {
			fmt.Fprintf(w, "  wrote       %s\n", &e.Writes[j])
		}
	}
	if len(q.Entries) == 0 {
		fmt.Fprintf(w, "no transaction of the pack has the id %s\n", q.TxID)
	}
}

// aboutKey is asked by a key.
type aboutKey struct {
	Namespace  string       `json:"namespace"`
	Collection string       `json:"collection,omitempty"`
	Key        string       `json:"key"`
	Versions   []keyVersion `json:"versions"`

	hash [sha256.Size]byte
}

// keyVersion is a write of the key. One that is not valid had no effect.
type keyVersion struct {
	Write Write `json:"write"`
	Entry
}

func keyCommand() *cobra.Command {
	var flags askFlags
	var collection string
	var composite bool
	cmd := &cobra.Command{
		Use:   "key CHANNEL NAMESPACE KEY",
		Short: "List every version of a key: value, who endorsed it, under which policy, with proofs",
		Long: `Lists every write of a key in the pack's range, the oldest first: the value, who submitted and
endorsed it, under which policy, and the files that prove it. With --composite, KEY is
the object type of a composite key and its attributes follow.` + askLong,
		Example: "  strongroom-audit key main asset a1 --pack pack.tar.zst\n  strongroom-audit key main asset owner~id Ada a1 --composite --pack pack.tar.zst",
		Args:    cobra.MinimumNArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			key := args[2]
			switch {
			case composite:
				key = "\x00" + strings.Join(args[2:], "\x00") + "\x00"
			case len(args) > 3:
				return errors.New("more than one KEY: give one, or --composite for a composite key")
			}
			if err := ofChannel(flags.pack, args[0]); err != nil {
				return err
			}
			return flags.ask(cmd, &aboutKey{
				Namespace: args[1], Collection: collection, Key: key, Versions: []keyVersion{}, hash: sha256.Sum256([]byte(key)),
			})
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&collection, "collection", "", "private data collection of the key, by its `NAME`: a pack has the hashes of its values")
	cmd.Flags().BoolVar(&composite, "composite", false, "KEY is a composite key's object type; its attributes follow")
	return cmd
}

func (q *aboutKey) see(b *seenBlock) bool {
	found := false
	for i, tx := range b.Txs {
		n := namespace(tx, q.Namespace)
		if n == nil {
			continue
		}
		for _, w := range q.written(n) {
			found = true
			q.Versions = append(q.Versions, keyVersion{w, b.entry(i)})
		}
	}
	return found
}

// written lists the writes of the key.
func (q *aboutKey) written(n *wire.NamespaceSet) []Write {
	var out []Write
	if q.Collection == "" {
		for _, w := range n.KV.GetWrites() {
			if w.GetKey() == q.Key {
				out = append(out, publicWrite(n.Namespace, w))
			}
		}
		for _, m := range n.KV.GetMetadataWrites() {
			if m.GetKey() == q.Key {
				out = append(out, Write{Namespace: n.Namespace, Key: q.Key, Metadata: true})
			}
		}
		return out
	}
	for _, c := range n.Collections {
		if c.Collection != q.Collection {
			continue
		}
		for _, w := range c.Hashed.GetHashedWrites() {
			if bytes.Equal(w.GetKeyHash(), q.hash[:]) {
				out = append(out, privateWrite(n.Namespace, c.Collection, w))
			}
		}
	}
	return out
}

func (q *aboutKey) print(w io.Writer) {
	effective := 0
	for i := range q.Versions {
		v := &q.Versions[i]
		if v.Code == peerpb.TxValidationCode_VALID.String() {
			effective++
			fmt.Fprintf(w, "version       %d.%d  %s\n", v.Block, v.Index, &v.Write)
		} else {
			fmt.Fprintf(w, "no version    %s was refused: %s\n", &v.Write, v.Code)
		}
		v.Entry.print(w)
	}
	fmt.Fprintf(w, "%d versions in the pack's range\n", effective)
}

// aboutIdentity is asked by a certificate's subject or fingerprint.
type aboutIdentity struct {
	Wanted       string            `json:"wanted"`
	Certificates []certificateSeen `json:"certificates"`
	Submitted    []Entry           `json:"submitted"`
	Endorsed     []Entry           `json:"endorsed"`
	Ordered      []uint64          `json:"orderedBlocks"` // blocks that it signed for the ordering service
	Stated       []uint64          `json:"statedBlocks"`  // blocks whose statements it signed
	known        map[[32]byte]bool // certificates, by their SHA-256: whether they are meant
}

type certificateSeen struct {
	MSPID     string `json:"mspId"`
	Subject   string `json:"subject"`
	Serial    string `json:"serial"`
	NotBefore string `json:"notBefore"`
	NotAfter  string `json:"notAfter"`
	SHA256    string `json:"sha256"` // of the DER form
}

func identityCommand() *cobra.Command {
	var flags askFlags
	cmd := &cobra.Command{
		Use:   "identity SUBJECT",
		Short: "List what an identity signed",
		Long: `Lists the valid transactions that an identity submitted and endorsed, and the blocks and statements
that it signed. SUBJECT is a certificate's subject ("CN=peer0.org1,OU=peer"), a part of it as
"CN=peer0.org1", or the SHA-256 of the certificate.` + askLong,
		Example: "  strongroom-audit identity CN=peer0.org1 --pack pack.tar.zst --output json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.ask(cmd, &aboutIdentity{
				Wanted: args[0], Certificates: []certificateSeen{}, Submitted: []Entry{}, Endorsed: []Entry{},
				Ordered: []uint64{}, Stated: []uint64{}, known: map[[32]byte]bool{},
			})
		},
	}
	flags.add(cmd)
	return cmd
}

func (q *aboutIdentity) see(b *seenBlock) bool {
	found := false
	for i, p := range b.parties {
		if p.creator != nil && q.meant(p.creator) {
			q.Submitted = append(q.Submitted, b.entry(i))
			found = true
		}
		for _, endorser := range p.endorsers {
			if q.meant(endorser) {
				q.Endorsed = append(q.Endorsed, b.entry(i))
				found = true
				break
			}
		}
	}
	if b.evidence.statement == nil {
		return found
	}
	p := &b.evidence.statement.Statement.Predicate
	for _, signer := range p.OrdererSigners {
		if q.named(signer.Subject, signer.CertificateSHA256) {
			q.Ordered = append(q.Ordered, b.Number())
			found = true
			break
		}
	}
	if q.named(p.Signer.Subject, p.Signer.CertificateSHA256) {
		q.Stated = append(q.Stated, b.Number())
		found = true
	}
	return found
}

// named tells whether a subject or a fingerprint is the wanted one.
func (q *aboutIdentity) named(subject, fingerprint string) bool {
	if strings.EqualFold(q.Wanted, fingerprint) || q.Wanted == subject {
		return true
	}
	return strings.Contains(","+subject+",", ","+q.Wanted+",")
}

// meant tells whether an identity is the wanted one, and notes its certificate.
func (q *aboutIdentity) meant(id *msp.Identity) bool {
	c := id.Certificate
	sum := sha256.Sum256(c.Raw)
	if wanted, seen := q.known[sum]; seen {
		return wanted
	}
	fingerprint := hex.EncodeToString(sum[:])
	q.known[sum] = q.named(c.Subject.String(), fingerprint)
	if q.known[sum] {
		q.Certificates = append(q.Certificates, certificateSeen{
			MSPID: string(id.MSPID), Subject: c.Subject.String(), Serial: c.SerialNumber.Text(16),
			NotBefore: c.NotBefore.UTC().Format("2006-01-02"), NotAfter: c.NotAfter.UTC().Format("2006-01-02"), SHA256: fingerprint,
		})
	}
	return q.known[sum]
}

func (q *aboutIdentity) print(w io.Writer) {
	for _, c := range q.Certificates {
		fmt.Fprintf(w, "certificate   %s of %s, serial %s, %s to %s\n  SHA-256     %s\n", c.Subject, c.MSPID, c.Serial, c.NotBefore, c.NotAfter, c.SHA256)
	}
	for _, list := range []struct {
		name    string
		entries []Entry
	}{{"submitted", q.Submitted}, {"endorsed", q.Endorsed}} {
		for _, e := range list.entries {
			fmt.Fprintf(w, "%-13s %s in block %d (%s %s)\n", list.name, e.TxID, e.Block, e.Kind, e.Chaincode)
		}
	}
	fmt.Fprintf(w, "submitted %d, endorsed %d valid transactions; signed %d blocks as an orderer, the statements of %d blocks\n",
		len(q.Submitted), len(q.Endorsed), len(q.Ordered), len(q.Stated))
}

// aboutPolicy is asked by a policy's digest.
type aboutPolicy struct {
	Digest   string          `json:"digest"`
	Policies []policyInForce `json:"policies"`
	Judged   []Entry         `json:"judged"` // valid transactions that it judged
}

type policyInForce struct {
	Rule
	First uint64 `json:"first"` // first and last block of the range whose writes it judged
	Last  uint64 `json:"last"`
}

func policyCommand() *cobra.Command {
	var flags askFlags
	cmd := &cobra.Command{
		Use:     "policy DIGEST",
		Short:   "List what an endorsement policy judged",
		Long:    "Lists the namespaces whose writes an endorsement policy judged, in which blocks, and the valid\ntransactions with their endorsers. DIGEST may be cut, to eight digits at least." + askLong,
		Example: "  strongroom-audit policy 5d1e07aa --pack pack.tar.zst",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			digest := strings.ToLower(args[0])
			if len(digest) < 8 || strings.Trim(digest, "0123456789abcdef") != "" {
				return fmt.Errorf("DIGEST is %q: give a policy's SHA-256 in hexadecimal, eight digits at least; verify's report lists them", args[0])
			}
			return flags.ask(cmd, &aboutPolicy{Digest: digest, Policies: []policyInForce{}, Judged: []Entry{}})
		},
	}
	flags.add(cmd)
	return cmd
}

func (q *aboutPolicy) see(b *seenBlock) bool {
	if b.evidence.statement == nil {
		return false
	}
	var namespaces []string // that it judged in this block
	for _, p := range b.evidence.statement.Statement.Predicate.Policies {
		if strings.HasPrefix(p.Digest, q.Digest) {
			namespaces = append(namespaces, p.Namespace)
			q.inForce(Rule{p.Namespace, p.Digest}, b.Number())
		}
	}
	for i, tx := range b.Txs {
		if b.valid(i) && slices.ContainsFunc(namespaces, func(n string) bool { return writesTo(tx, n) }) {
			q.Judged = append(q.Judged, b.entry(i))
		}
	}
	return len(namespaces) > 0
}

func (q *aboutPolicy) inForce(r Rule, block uint64) {
	for i := range q.Policies {
		if q.Policies[i].Rule == r {
			q.Policies[i].Last = block
			return
		}
	}
	q.Policies = append(q.Policies, policyInForce{r, block, block})
}

func (q *aboutPolicy) print(w io.Writer) {
	for _, p := range q.Policies {
		fmt.Fprintf(w, "policy        %s of %s, blocks %d to %d\n", p.Digest, p.Namespace, p.First, p.Last)
	}
	for _, e := range q.Judged {
		fmt.Fprintf(w, "judged        %s in block %d, endorsed by %s\n", e.TxID, e.Block, strings.Join(e.Endorsers, " and "))
	}
	fmt.Fprintf(w, "%d valid transactions in the pack's range\n", len(q.Judged))
}
