// Package qscc is the system chaincode `qscc`: queries of a channel's blocks and
// transactions, with the arguments and the answers of a Hyperledger Fabric peer
// (core/scc/qscc). It performs no I/O but the ledger's reads.
package qscc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"

	"google.golang.org/protobuf/proto"

	"strongroom/acl"
	"strongroom/appliance/endorser"
	"strongroom/channel/configtx"
	"strongroom/ledger"
	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// Name is the chaincode's name.
const Name = "qscc"

// Access decides who may call a function. *acl.Guard is one.
type Access interface {
	Check(ctx context.Context, cfg *configtx.Config, r acl.Request) (acl.Decision, error)
}

// Ledger is a channel's chain as it is queried. *ledger.Ledger is one. What is not
// there gives an error that wraps ledger.ErrNotFound.
type Ledger interface {
	Info() *commonpb.BlockchainInfo
	Block(number uint64) (*commonpb.Block, error)
	BlockByHash(hash []byte) (*commonpb.Block, error)
	BlockByTxID(txID string) (*commonpb.Block, error)
	Transaction(txID string) (*peerpb.ProcessedTransaction, error)
}

var _ Ledger = (*ledger.Ledger)(nil)

// Config is what a Queries needs.
type Config struct {
	Access Access
	// Channel finds a joined channel's chain and its configuration in force.
	Channel func(channelID string) (Ledger, *configtx.Config, bool)
	Logger  *slog.Logger
}

// Queries is `qscc`. It is safe for concurrent use.
type Queries struct{ cfg Config }

var _ endorser.SystemChaincode = (*Queries)(nil)

// New makes a Queries.
func New(cfg Config) (*Queries, error) {
	switch {
	case cfg.Access == nil:
		return nil, errors.New("qscc: Access is missing")
	case cfg.Channel == nil:
		return nil, errors.New("qscc: Channel is missing")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Queries{cfg: cfg}, nil
}

// Name is "qscc".
func (q *Queries) Name() string { return Name }

// queries take the third argument of a call, except GetChainInfo.
var queries = map[string]func(l Ledger, arg []byte) (proto.Message, error){
	"GetChainInfo": func(l Ledger, _ []byte) (proto.Message, error) { return l.Info(), nil },
	"GetBlockByNumber": func(l Ledger, arg []byte) (proto.Message, error) {
		number, err := strconv.ParseUint(string(arg), 10, 64)
		if err != nil {
			return nil, answer(fmt.Sprintf("Failed to parse block number with error %s", err))
		}
		b, err := l.Block(number)
		return found(b, err, "Failed to get block number %d", number)
	},
	"GetBlockByHash": func(l Ledger, arg []byte) (proto.Message, error) {
		b, err := l.BlockByHash(arg)
		return found(b, err, "Failed to get block hash %x", arg)
	},
	"GetTransactionByID": func(l Ledger, arg []byte) (proto.Message, error) {
		tx, err := l.Transaction(string(arg))
		return found(tx, err, "Failed to get transaction with id %s", arg)
	},
	"GetBlockByTxID": func(l Ledger, arg []byte) (proto.Message, error) {
		b, err := l.BlockByTxID(string(arg))
		return found(b, err, "Failed to get block for txID %s", arg)
	},
}

// answer is an error in Fabric's words, for the caller.
type answer string

func (a answer) Error() string { return string(a) }

// errOurs is a failure of ours in a query, whose text is not for the caller.
var errOurs = errors.New("the ledger failed")

// found gives the message, or an error in Fabric's words. Whether a thing exists is
// for the caller to know; how the ledger failed is not.
func found(m proto.Message, err error, format string, args ...any) (proto.Message, error) {
	switch {
	case err == nil:
		return m, nil
	case errors.Is(err, ledger.ErrNotFound):
		return nil, answer(fmt.Sprintf(format+", error %s", append(args, err)...))
	default:
		return nil, fmt.Errorf("%w: "+format+": %w", append(append([]any{errOurs}, args...), err)...)
	}
}

// Invoke answers a call: the function, the channel's id, and an argument.
func (q *Queries) Invoke(ctx context.Context, call *endorser.Call) (*peerpb.Response, error) {
	args := call.Args
	if len(args) < 2 {
		return endorser.Failure("Incorrect number of arguments, %d", len(args)), nil
	}
	name, channelID := call.Function(), string(args[1])
	query, ok := queries[name]
	if !ok {
		return endorser.Failure("Requested function %s not found.", name), nil
	}
	var arg []byte
	if name != "GetChainInfo" {
		if len(args) < 3 || len(args[2]) == 0 {
			return endorser.Failure("missing 3rd argument for %s", name), nil
		}
		arg = args[2]
	}
	l, cfg, ok := q.cfg.Channel(channelID)
	if !ok {
		return endorser.Failure("Invalid chain ID, %s", channelID), nil
	}
	// The proposal's creator was checked against the proposal's channel, and what it
	// may read is the queried channel's matter.
	creator := call.Creator
	if call.ChannelID != channelID {
		id, err := cfg.Identity(ctx, call.Creator.Serialized)
		if err != nil && !msp.IsInvalid(err) {
			return nil, fmt.Errorf("creator's identity: %w", err)
		}
		if err != nil {
			q.cfg.Logger.WarnContext(ctx, "query refused", "function", name, "channel", channelID, "error", err)
			return endorser.Failure("access denied for [%s][%s]", name, channelID), nil
		}
		creator = id
	}
	decision, err := q.cfg.Access.Check(ctx, cfg, acl.Request{
		Resource: acl.Resource(Name + "/" + name), Channel: channelID, Chaincode: Name, Function: name, Args: call.Parameters(),
		Caller: creator, RemoteAddr: call.RemoteAddr, TLSCertHash: call.TLSCertHash,
	})
	if errors.Is(err, acl.ErrDenied) {
		return endorser.Failure("access denied for [%s][%s]: decision %s", name, channelID, decision.ID), nil
	}
	if err != nil {
		return nil, fmt.Errorf("access to %s: %w", name, err)
	}
	m, err := query(l, arg)
	if errors.Is(err, errOurs) {
		return nil, err
	}
	if err != nil {
		return endorser.Failure("%s", err), nil
	}
	payload, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("result of %s: %w", name, err)
	}
	return endorser.Success(payload), nil
}
