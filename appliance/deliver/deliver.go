// Package deliver offers protos.Deliver: a channel's blocks, whole or filtered, to
// clients that sign their requests. Who may read is decided at the start, again
// whenever the channel's configuration changes, and no longer than the client's
// certificate is valid. The loop of seeking and waiting is ordering/deliver.
package deliver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"strongroom/acl"
	"strongroom/bccsp"
	"strongroom/channel/configtx"
	"strongroom/ledger"
	"strongroom/msp"
	stream "strongroom/ordering/deliver"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"
)

// Channel is a joined channel as it is delivered.
type Channel interface {
	Config() *configtx.Config
	Ledger() *ledger.Ledger
}

// Access decides who may read. *acl.Guard is one.
type Access interface {
	Check(ctx context.Context, cfg *configtx.Config, r acl.Request) (acl.Decision, error)
}

// Config is what a Server needs.
type Config struct {
	// Channels finds a joined channel.
	Channels func(channelID string) (Channel, bool)
	Access   Access
	// TimeWindow bounds the age of requests; 0 means 15 minutes.
	TimeWindow time.Duration
	// MutualTLS makes each request name its connection's TLS certificate.
	MutualTLS bool
	Now       func() time.Time // nil means time.Now
	Logger    *slog.Logger
}

// Server implements peerpb.DeliverServer. It is safe for concurrent use.
type Server struct {
	peerpb.UnimplementedDeliverServer
	cfg Config
}

// New makes a Server.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Channels == nil:
		return nil, errors.New("deliver: Channels is missing")
	case cfg.Access == nil:
		return nil, errors.New("deliver: Access is missing: without it nobody may read")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg}, nil
}

// Deliver streams whole blocks (resource event/Block).
func (s *Server) Deliver(srv peerpb.Deliver_DeliverServer) error {
	return stream.Serve(srv.Context(), srv, stream.PeerSender(srv), s.options(acl.ResourceEventBlock))
}

// DeliverFiltered streams what became of each transaction, with its chaincode event
// but without the event's payload (resource event/FilteredBlock).
func (s *Server) DeliverFiltered(srv peerpb.Deliver_DeliverFilteredServer) error {
	return stream.Serve(srv.Context(), srv, filteredSender{srv}, s.options(acl.ResourceEventFilteredBlock))
}

// DeliverWithPrivateData is refused: private data leaves this peer in no stream.
func (s *Server) DeliverWithPrivateData(peerpb.Deliver_DeliverWithPrivateDataServer) error {
	return status.Error(codes.Unimplemented, "DeliverWithPrivateData is not offered by this peer: use Deliver for blocks, and evaluate a transaction to read private data")
}

func (s *Server) options(resource acl.Resource) stream.Options {
	return stream.Options{
		Chain: func(id string) (stream.Chain, bool) {
			ch, ok := s.cfg.Channels(id)
			if !ok {
				return nil, false
			}
			return &chain{Channel: ch, id: id, access: s.cfg.Access, resource: resource}, true
		},
		TimeWindow: s.cfg.TimeWindow, MutualTLS: s.cfg.MutualTLS, Now: s.cfg.Now, Logger: s.cfg.Logger,
	}
}

// chain is a channel as one stream reads it.
type chain struct {
	Channel
	id       string
	access   Access
	resource acl.Resource
}

func (c *chain) Sequence() uint64 { return c.Config().Sequence }

func (c *chain) Height() uint64 { return c.Ledger().Height() }

// Authorize validates the signer under the configuration in force, verifies the
// request's signature in the token and asks the guard.
func (c *chain) Authorize(ctx context.Context, r *stream.Request) error {
	cfg := c.Config()
	id, err := cfg.Identity(ctx, r.SignatureHeader.GetCreator())
	if msp.IsInvalid(err) {
		return fmt.Errorf("%w: %w", stream.ErrForbidden, err)
	}
	if err != nil {
		return fmt.Errorf("signer's identity: %w", err)
	}
	if err := id.Verify(ctx, r.Payload, r.Signature); err != nil {
		if errors.Is(err, bccsp.ErrBadSignature) {
			return fmt.Errorf("%w: %w", stream.ErrForbidden, err)
		}
		return fmt.Errorf("verify the request's signature: %w", err)
	}
	_, err = c.access.Check(ctx, cfg, acl.Request{
		Resource: c.resource, Channel: c.id, Caller: id, RemoteAddr: host(r.RemoteAddr), TLSCertHash: stream.PeerCertificateHash(ctx),
	})
	if errors.Is(err, acl.ErrDenied) {
		return fmt.Errorf("%w: %w", stream.ErrForbidden, err)
	}
	return err
}

func host(addr string) string {
	if h, _, err := net.SplitHostPort(addr); err == nil {
		return h
	}
	return addr
}

// Block waits for a block of the ledger.
func (c *chain) Block(ctx context.Context, number uint64) (*stream.Block, error) {
	for b, err := range c.Ledger().Blocks(ctx, number) {
		if err != nil {
			return nil, err
		}
		return stream.NewBlock(b), nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, stream.ErrUnavailable
}

// filteredSender sends filtered blocks.
type filteredSender struct {
	srv peerpb.Deliver_DeliverFilteredServer
}

func (s filteredSender) SendStatus(st commonpb.Status) error {
	return s.srv.Send(&peerpb.DeliverResponse{Type: &peerpb.DeliverResponse_Status{Status: st}})
}

func (s filteredSender) SendBlock(_ context.Context, _ stream.Chain, r *stream.Request, b *stream.Block, _ bool) error {
	msg, err := b.Message()
	if err != nil {
		return err
	}
	filtered, err := Filter(r.ChannelHeader.GetChannelId(), msg)
	if err != nil {
		return err
	}
	return s.srv.Send(&peerpb.DeliverResponse{Type: &peerpb.DeliverResponse_FilteredBlock{FilteredBlock: filtered}})
}

// Filter makes the filtered form of a committed block, whose metadata holds the
// validation flags (protos.FilteredBlock). A transaction without a readable header
// is left out, as in Fabric; one whose content does not parse has no actions.
func Filter(channelID string, msg *commonpb.Block) (*peerpb.FilteredBlock, error) {
	b, err := wire.ParseBlock(msg)
	if err != nil {
		return nil, fmt.Errorf("committed block: %w", err)
	}
	flags := msg.GetMetadata().GetMetadata()
	var codes []byte
	if i := int(commonpb.BlockMetadataIndex_TRANSACTIONS_FILTER); i < len(flags) {
		codes = flags[i]
	}
	out := &peerpb.FilteredBlock{ChannelId: channelID, Number: b.Number(), FilteredTransactions: make([]*peerpb.FilteredTransaction, 0, len(b.Txs))}
	for i, tx := range b.Txs {
		if tx.ChannelHeader == nil {
			continue
		}
		f := &peerpb.FilteredTransaction{
			Txid: tx.TxID(), Type: commonpb.HeaderType(tx.ChannelHeader.GetType()), TxValidationCode: peerpb.TxValidationCode_NOT_VALIDATED,
		}
		if i < len(codes) {
			f.TxValidationCode = peerpb.TxValidationCode(codes[i])
		}
		if f.Type == commonpb.HeaderType_ENDORSER_TRANSACTION {
			f.Type_ = actions(tx)
		}
		out.FilteredTransactions = append(out.FilteredTransactions, f)
	}
	return out, nil
}

func actions(tx *wire.Tx) *peerpb.FilteredTransaction_TransactionActions {
	out := &peerpb.FilteredTransactionActions{}
	if event := eventOf(tx); event.GetChaincodeId() != "" {
		out.ChaincodeActions = append(out.ChaincodeActions, &peerpb.FilteredChaincodeAction{ChaincodeEvent: &peerpb.ChaincodeEvent{
			ChaincodeId: event.GetChaincodeId(), TxId: event.GetTxId(), EventName: event.GetEventName(),
		}})
	}
	return &peerpb.FilteredTransaction_TransactionActions{TransactionActions: out}
}

// eventOf is a transaction's chaincode event, nil without one.
func eventOf(tx *wire.Tx) *peerpb.ChaincodeEvent {
	if tx.Endorsed == nil {
		return nil
	}
	return tx.Endorsed.Event
}
