// Package chaincode runs chaincode over Hyperledger Fabric's chaincode protocol:
// it is the peer's side of one gRPC stream of protos.ChaincodeMessage for each
// chaincode process, over which many transactions run at once.
//
// A chaincode process is reached in one of two ways. As a service it listens and
// the host dials it (protos.Chaincode.Connect, see Host.AddService). Otherwise it
// dials in itself (protos.ChaincodeSupport.Register, which Host serves); that is
// for development and refused unless Config.AdmitDialIn allows it.
//
// The package trusts no chaincode. What a chaincode process sends can end its own
// transaction, at worst its own connection, and nothing else: requests of a
// transaction are handled one after the other by the goroutine that called
// Host.Execute, queues are bounded, and a message for a transaction that is not
// running is refused.
package chaincode

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"time"

	"strongroom/wire/peerpb"
	"strongroom/wire/queryresultpb"
)

// Errors that callers of Execute branch on. The texts around them name the
// chaincode, its address and what to do.
var (
	// ErrUnavailable: no process of this chaincode is connected.
	ErrUnavailable = errors.New("chaincode is not connected")
	// ErrTimeout: the chaincode did not finish its transaction in time.
	ErrTimeout = errors.New("timeout expired while executing transaction")
	// ErrConnectionLost: the connection ended while the transaction ran.
	ErrConnectionLost = errors.New("chaincode connection ended")
	// ErrDuplicateTx: this transaction id already runs on this channel in this chaincode.
	ErrDuplicateTx = errors.New("transaction is already running")
	// ErrFailed: the chaincode answered ERROR instead of a response.
	ErrFailed = errors.New("transaction returned with failure")
	// ErrProtocol: the chaincode broke the protocol or one of the host's limits.
	ErrProtocol = errors.New("chaincode protocol violation")
	// ErrClosed: the host has been closed.
	ErrClosed = errors.New("chaincode host is closed")
)

// State is what a transaction reads and writes while it is simulated: one
// snapshot of a channel's state with the transaction's writes beside it. Reads do
// not see the transaction's own writes (Fabric's rule); that is the State's matter.
//
// The host calls a State from one goroutine at a time, nested chaincode calls
// included. Slices that a State returns are not changed by the host.
type State interface {
	// Get returns the value of a key, nil if there is none.
	Get(namespace, key string) ([]byte, error)
	// Put records a write. An empty value counts as a delete, as in Fabric.
	Put(namespace, key string, value []byte) error
	// Delete records a delete.
	Delete(namespace, key string) error
	// GetMetadata returns the metadata entries of a key, nil if there are none.
	GetMetadata(namespace, key string) (map[string][]byte, error)
	// SetMetadata replaces all metadata entries of a key.
	SetMetadata(namespace, key string, entries map[string][]byte) error
	// Range reads the keys of [start, end) in byte order; an empty end is the
	// end of the namespace.
	Range(namespace, start, end string) (KVIterator, error)
	// RangePage is Range for at most pageSize rows from bookmark on, "" meaning
	// from start.
	RangePage(namespace, start, end string, pageSize int32, bookmark string) (PageIterator, error)
	// Query reads the rows whose values match a rich query: CouchDB's selector
	// syntax, as ledger/selector has it. Reading ends when the context does.
	Query(ctx context.Context, namespace, query string) (KVIterator, error)
	// QueryPage is Query for at most pageSize rows behind the bookmark, "" meaning
	// from the start.
	QueryPage(ctx context.Context, namespace, query string, pageSize int32, bookmark string) (PageIterator, error)
	// History reads the committed changes of a key, the newest first.
	History(namespace, key string) (HistoryIterator, error)
}

// KVIterator walks the rows of a range. Next returns nil at the end. Close is
// called exactly once, also after an error. It and the iterators below are aliases
// of unnamed types, so that a State need not import this package.
type KVIterator = interface {
	Next() (*queryresultpb.KV, error)
	Close()
}

// PageIterator is a KVIterator over one page. Bookmark is where the next page
// starts: for a range its first key, "" after the last page; for a rich query what
// its engine understands. It is asked once, before Close, and ends the reading.
type PageIterator = interface {
	Next() (*queryresultpb.KV, error)
	Bookmark() string
	Close()
}

// HistoryIterator walks the changes of a key. Next returns nil at the end. Close
// is called exactly once.
type HistoryIterator = interface {
	Next() (*queryresultpb.KeyModification, error)
	Close()
}

// Invocation is one call of a chaincode.
type Invocation struct {
	ChannelID string
	TxID      string
	Namespace string                 // the chaincode's name on the channel: the namespace that it reads and writes
	PackageID string                 // the package that runs it, "label:sha256hex"
	Input     *peerpb.ChaincodeInput // not changed; decorations, if any, are in it
	Proposal  *peerpb.SignedProposal // as the client sent it, transient data included; may be nil for calls of our own
	IsInit    bool                   // calls Init instead of Invoke (lifecycle's "init required")
	State     State                  // the transaction's simulator; shared with chaincodes that it calls
	Timeout   time.Duration          // bounds this call and those that it makes; 0 is Config.ExecuteTimeout
	Caller    *Invocation            // the invocation whose chaincode called this one; nil for a client's call
}

// Outcome is what a chaincode answered. A Response with status >= 400 is a
// business failure; whether to endorse it is the endorser's decision.
type Outcome struct {
	Response *peerpb.Response
	Event    *peerpb.ChaincodeEvent // chaincode id and transaction id are set by the host; nil if there is none
}

// Target is what a chaincode's name stands for in a call from another chaincode.
// Exactly one of its fields is set.
type Target struct {
	// PackageID is the package that runs the chaincode.
	PackageID string
	// System runs a system chaincode in this process.
	System func(ctx context.Context, inv Invocation) (*peerpb.Response, error)
}

// Resolver decides on a call from chaincode to chaincode on the caller's channel:
// whether the proposal's creator may make it, that the chaincode is defined (read
// through caller.State, so that the read is in the read set as in Fabric), and
// what runs it. Its error text reaches the calling chaincode.
type Resolver func(ctx context.Context, caller *Invocation, name string, input *peerpb.ChaincodeInput) (Target, error)

// Config is what a Host needs. The zero value works: no calls between
// chaincodes, no dial-in, Fabric's limits.
type Config struct {
	// Resolve serves calls from chaincode to chaincode; nil refuses them.
	Resolve Resolver
	// AdmitDialIn decides whether a process that dialled in may serve the
	// chaincode that it names (CORE_CHAINCODE_ID_NAME). The context is the
	// stream's, with its gRPC peer. Nil refuses all.
	AdmitDialIn func(ctx context.Context, chaincodeID string) error
	// ExecuteTimeout bounds a transaction without one of its own; default 30 s.
	ExecuteTimeout time.Duration
	// Keepalive is how long a connection may be silent before the host sends
	// KEEPALIVE; one that stays silent for as long again is closed. 0 is never,
	// Fabric's default: fabric-shim for Node exits on a KEEPALIVE. Dead hosts
	// are found by HTTP/2 pings in any case.
	Keepalive time.Duration
	// ClientCertificate answers, at each handshake, what is presented to services that
	// ask for a client certificate and whose connection has no client_key of its own:
	// the peer's TLS key in the token. Nil if there is none.
	ClientCertificate func() *tls.Certificate
	// MaxMessageBytes bounds a message of the protocol; default 100 MiB, Fabric's.
	MaxMessageBytes int
	// MaxIterators bounds the iterators that a transaction has open; default 1024.
	MaxIterators int
	// MaxQueryResults bounds the rows of one query, Fabric's
	// ledger.state.totalQueryLimit; default 100000.
	MaxQueryResults int
	// MaxWriteBytes bounds what a transaction writes, keys and values together;
	// default 100 MiB.
	MaxWriteBytes int
	// Observe, if set, is called after every Execute of a client's call.
	Observe func(packageID string, d time.Duration, err error)
	// Logger is never given values, arguments or keys; nil discards.
	Logger *slog.Logger
}

// Defaults of Config.
const (
	DefaultExecuteTimeout  = 30 * time.Second
	DefaultMaxMessageBytes = 100 << 20
	DefaultMaxIterators    = 1024
	DefaultMaxQueryResults = 100_000
	DefaultMaxWriteBytes   = 100 << 20
)

// resultsPerResponse is how many rows one QueryResponse carries, Fabric's
// maxResultLimit.
const resultsPerResponse = 100
