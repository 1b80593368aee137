package provenance

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
)

// Facts are what the recorder is told about a committed block.
type Facts struct {
	// Block as the ledger keeps it: verdicts and commit hash in its metadata.
	Block *commonpb.Block
	// Policies are the digests, in hex, of the endorsement policies that judged the
	// block, by namespace.
	Policies map[string]string
	// PolicyBundles are the teams' own bundles in force when it was judged.
	PolicyBundles []PolicyBundle
}

// Peer is what all statements of one peer have in common.
type Peer struct {
	Signer     Identity
	HSM        HSM
	Software   Software
	OPAVersion string
}

// IdentityOf names a member of an MSP by its certificate.
func IdentityOf(mspID string, cert *x509.Certificate) Identity {
	sum := sha256.Sum256(cert.Raw)
	return Identity{MSPID: mspID, Subject: cert.Subject.String(), CertificateSHA256: hex.EncodeToString(sum[:])}
}

// predicate puts a statement's content together; previous and time are the recorder's.
func (f *Facts) predicate(channel string, peer *Peer) (*Predicate, error) {
	header := f.Block.GetHeader()
	signers, err := ordererSigners(f.Block)
	if err != nil {
		return nil, err
	}
	commit, err := commitHash(f.Block)
	if err != nil {
		return nil, err
	}
	verdicts := flags(f.Block)
	if len(verdicts) != len(f.Block.GetData().GetData()) {
		return nil, fmt.Errorf("block %d has %d verdicts for %d transactions: record it after it was committed",
			header.GetNumber(), len(verdicts), len(f.Block.GetData().GetData()))
	}
	p := &Predicate{
		Channel:        channel,
		Number:         header.GetNumber(),
		PreviousHash:   hex.EncodeToString(header.GetPreviousHash()),
		DataHash:       hex.EncodeToString(header.GetDataHash()),
		MetadataDigest: hex.EncodeToString(MetadataDigest(f.Block.GetMetadata())),
		Transactions:   transactions(verdicts),
		CommitHash:     hex.EncodeToString(commit),
		OrdererSigners: signers,
		Policies:       make([]Policy, 0, len(f.Policies)),
		OPAVersion:     peer.OPAVersion,
		PolicyBundles:  append([]PolicyBundle{}, f.PolicyBundles...),
		HSM:            peer.HSM,
		Signer:         peer.Signer,
		Software:       peer.Software,
	}
	for namespace, digest := range f.Policies {
		p.Policies = append(p.Policies, Policy{Namespace: namespace, Digest: digest})
	}
	slices.SortFunc(p.Policies, func(a, b Policy) int { return cmp.Compare(a.Namespace, b.Namespace) })
	return p, nil
}

// slot is one entry of a block's metadata, or nil.
func slot(b *commonpb.Block, i commonpb.BlockMetadataIndex) []byte {
	slots := b.GetMetadata().GetMetadata()
	if int(i) >= len(slots) {
		return nil
	}
	return slots[i]
}

// flags are the verdicts on the block's transactions.
func flags(b *commonpb.Block) []byte {
	return slot(b, commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER)
}

// commitHash is the value of the metadata slot COMMIT_HASH.
func commitHash(b *commonpb.Block) ([]byte, error) {
	var m commonpb.Metadata
	if err := proto.Unmarshal(slot(b, commonpb.BlockMetadataIndex_COMMIT_HASH), &m); err != nil {
		return nil, fmt.Errorf("block %d: metadata COMMIT_HASH: %w", b.GetHeader().GetNumber(), err)
	}
	return m.Value, nil
}

// ordererSigners names who signed the block. A signature that carries an identifier
// in place of the creator (Fabric's BFT) is named by it, the consenter's number.
func ordererSigners(b *commonpb.Block) ([]Identity, error) {
	var m commonpb.Metadata
	if err := proto.Unmarshal(slot(b, commonpb.BlockMetadataIndex_SIGNATURES), &m); err != nil {
		return nil, fmt.Errorf("block %d: metadata SIGNATURES: %w", b.GetHeader().GetNumber(), err)
	}
	signers := make([]Identity, 0, len(m.Signatures))
	for i, sig := range m.Signatures {
		if len(sig.SignatureHeader) == 0 {
			signers = append(signers, Identity{Subject: fmt.Sprintf("consenter %x", sig.IdentifierHeader)})
			continue
		}
		var header commonpb.SignatureHeader
		var id msppb.SerializedIdentity
		if err := proto.Unmarshal(sig.SignatureHeader, &header); err != nil {
			return nil, fmt.Errorf("block %d: header of signature %d: %w", b.GetHeader().GetNumber(), i, err)
		}
		if err := proto.Unmarshal(header.Creator, &id); err != nil {
			return nil, fmt.Errorf("block %d: creator of signature %d: %w", b.GetHeader().GetNumber(), i, err)
		}
		block, _ := pem.Decode(id.IdBytes)
		if block == nil {
			return nil, fmt.Errorf("block %d: creator of signature %d is no certificate in PEM", b.GetHeader().GetNumber(), i)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("block %d: creator of signature %d: %w", b.GetHeader().GetNumber(), i, err)
		}
		signers = append(signers, IdentityOf(id.Mspid, cert))
	}
	return signers, nil
}
