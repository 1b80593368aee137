// Package statements is the system chaincode `provenance`: it gives the signed
// statement of a block, and whose key signed it. Fabric has no such chaincode; who
// may read a block may read its statement.
package statements

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"

	"strongroom/acl"
	"strongroom/appliance/endorser"
	"strongroom/channel/configtx"
	"strongroom/ledger/provenance"
	"strongroom/ledger/translog"
	"strongroom/wire/peerpb"
)

// Name is the chaincode's name.
const Name = "provenance"

// resource is what decides who may ask: reading a block.
const resource = acl.Resource("qscc/GetBlockByNumber")

// Access decides who may call a function. *acl.Guard is one.
type Access interface {
	Check(ctx context.Context, cfg *configtx.Config, r acl.Request) (acl.Decision, error)
}

// Statements finds the statement of a block, and proofs that it is in the log. *provenance.Recorder is one.
type Statements interface {
	Get(number uint64) ([]byte, error)
	Signers() ([]byte, error)
	Checkpoint(ctx context.Context) ([]byte, error)
	InclusionProof(number, size uint64) (index uint64, proof []translog.Hash, err error)
	ConsistencyProof(old, size uint64) ([]translog.Hash, error)
	SignPack(ctx context.Context, sums [sha256.Size]byte, from, to uint64, requester provenance.Identity) ([]byte, error)
}

// Config is what a Service needs.
type Config struct {
	Access Access
	Signer func() []byte // answers this peer's serialized identity, as last renewed
	// Channel finds a joined channel's statements.
	Channel func(channelID string) (Statements, bool)
}

// Service is `provenance`. It is safe for concurrent use.
type Service struct{ cfg Config }

var _ endorser.SystemChaincode = (*Service)(nil)

// New makes a Service.
func New(cfg Config) *Service {
	return &Service{cfg: cfg}
}

// Name is "provenance".
func (s *Service) Name() string { return Name }

// Invoke answers GetSigner CHANNEL, GetSigners CHANNEL (certificates in PEM: of the key in
// force first, then of those before), GetStatement CHANNEL NUMBER, and for the
// transparency log GetCheckpoint CHANNEL, GetInclusionProof CHANNEL NUMBER SIZE and
// GetConsistencyProof CHANNEL OLD SIZE, and SignPack for an evidence pack. The channel
// must be the proposal's own.
func (s *Service) Invoke(ctx context.Context, call *endorser.Call) (*peerpb.Response, error) {
	if len(call.Args) < 2 {
		return endorser.Failure("give a function and a channel, as GetStatement main 7"), nil
	}
	if channel := string(call.Args[1]); channel != call.ChannelID {
		return endorser.Failure("channel %q is not the proposal's, %q", channel, call.ChannelID), nil
	}
	decision, err := s.cfg.Access.Check(ctx, call.Config, acl.Request{
		Resource: resource, Channel: call.ChannelID, Chaincode: Name, Function: call.Function(), Args: call.Parameters(),
		Caller: call.Creator, RemoteAddr: call.RemoteAddr, TLSCertHash: call.TLSCertHash,
	})
	if errors.Is(err, acl.ErrDenied) {
		return endorser.Failure("access denied for [%s][%s]: decision %s", call.Function(), call.ChannelID, decision.ID), nil
	}
	if err != nil {
		return nil, fmt.Errorf("access to %s: %w", call.Function(), err)
	}
	switch call.Function() {
	case "GetSigner":
		return endorser.Success(s.cfg.Signer()), nil
	case "GetSigners":
		return s.signers(call)
	case "GetStatement":
		return s.statement(call)
	case "GetCheckpoint":
		return s.checkpoint(ctx, call)
	case "GetInclusionProof", "GetConsistencyProof":
		return s.proof(call)
	case "SignPack":
		return s.sign(ctx, call)
	}
	return endorser.Failure("function %q is not offered: use GetSigner, GetSigners, GetStatement, GetCheckpoint, GetInclusionProof, GetConsistencyProof or SignPack", call.Function()), nil
}

func (s *Service) signers(call *endorser.Call) (*peerpb.Response, error) {
	statements, ok := s.cfg.Channel(call.ChannelID)
	if !ok {
		return endorser.Failure("channel %q has no statements", call.ChannelID), nil
	}
	certificates, err := statements.Signers()
	if err != nil {
		return nil, fmt.Errorf("signers of channel %q: %w", call.ChannelID, err)
	}
	return endorser.Success(certificates), nil
}

func (s *Service) statement(call *endorser.Call) (*peerpb.Response, error) {
	if len(call.Args) != 3 {
		return endorser.Failure("give the block's number, as GetStatement main 7"), nil
	}
	number, err := strconv.ParseUint(string(call.Args[2]), 10, 64)
	if err != nil {
		return endorser.Failure("block number %q is not one", call.Args[2]), nil
	}
	statements, ok := s.cfg.Channel(call.ChannelID)
	if !ok {
		return endorser.Failure("channel %q has no statements", call.ChannelID), nil
	}
	bundle, err := statements.Get(number)
	if errors.Is(err, provenance.ErrNotFound) {
		return endorser.Failure("block %d has no statement yet", number), nil
	}
	if err != nil {
		return nil, fmt.Errorf("statement of block %d: %w", number, err)
	}
	return endorser.Success(bundle), nil
}
