package chaincode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"strongroom/chaincode/ccpackage"
	"strongroom/wire/peerpb"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Connection says where a chaincode service listens; see package ccpackage.
type Connection = ccpackage.Connection

// Host keeps the connections to chaincode processes and runs transactions over
// them. It is safe for concurrent use. Close ends it.
type Host struct {
	peerpb.UnimplementedChaincodeSupportServer

	cfg    Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // dialling goroutines

	mu       sync.RWMutex // guards the maps
	services map[string]*service
	dialled  map[string]*link // chaincode that dialled in, by the name it gave
}

// New makes a host. The zero Config is useful; values below zero count as the
// default.
func New(cfg Config) *Host {
	cfg.ExecuteTimeout = orDefault(cfg.ExecuteTimeout, DefaultExecuteTimeout)
	cfg.MaxMessageBytes = orDefault(cfg.MaxMessageBytes, DefaultMaxMessageBytes)
	cfg.MaxIterators = orDefault(cfg.MaxIterators, DefaultMaxIterators)
	cfg.MaxQueryResults = orDefault(cfg.MaxQueryResults, DefaultMaxQueryResults)
	cfg.MaxWriteBytes = orDefault(cfg.MaxWriteBytes, DefaultMaxWriteBytes)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Host{cfg: cfg, services: make(map[string]*service), dialled: make(map[string]*link)}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

func orDefault[T ~int | ~int64](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// Close ends all connections; transactions in flight fail with ErrConnectionLost.
// It waits until the host's own goroutines have ended.
func (h *Host) Close() error {
	h.cancel()
	h.mu.RLock()
	for _, l := range h.dialled {
		l.fail(ErrClosed)
	}
	h.mu.RUnlock()
	h.work.Wait()
	return nil
}

// AddService makes the host dial a chaincode service now, keep the connection and
// dial again with backoff whenever it is lost. The same package with the same
// connection is left alone; with another one it is replaced. The error says what
// is wrong with the connection; that nobody listens there yet is no error.
func (h *Host) AddService(packageID string, c Connection) error {
	if packageID == "" {
		return errors.New("add chaincode service: package id is empty")
	}
	if err := c.Validate(); err != nil {
		return fmt.Errorf("add chaincode service %q: %w", packageID, err)
	}
	credentials, err := h.credentials(c)
	if err != nil {
		return fmt.Errorf("add chaincode service %q: %w", packageID, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() != nil {
		return ErrClosed
	}
	if old, ok := h.services[packageID]; ok {
		if old.conn == c {
			return nil
		}
		old.cancel()
	}
	s := newService(h, packageID, c, credentials)
	h.services[packageID] = s
	h.work.Go(s.run)
	return nil
}

// RemoveService ends the connection to a service. Transactions in flight fail.
func (h *Host) RemoveService(packageID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s, ok := h.services[packageID]; ok {
		s.cancel()
		delete(h.services, packageID)
	}
}

// ServiceStatus is the state of one connection, for operators.
type ServiceStatus struct {
	PackageID string
	Address   string
	DialledIn bool // the chaincode dialled the peer
	Connected bool // registered and ready for transactions
	InFlight  int  // transactions running in it
	Err       error
}

// Status lists all services and all chaincode that dialled in, in no order.
func (h *Host) Status() []ServiceStatus {
	h.mu.RLock()
	defer h.mu.RUnlock()
	list := make([]ServiceStatus, 0, len(h.services)+len(h.dialled))
	for id, s := range h.services {
		l, err := s.current()
		st := ServiceStatus{PackageID: id, Address: s.conn.Address, Connected: l != nil, Err: err}
		if l != nil {
			st.InFlight = l.inFlight()
		}
		list = append(list, st)
	}
	for id, l := range h.dialled {
		list = append(list, ServiceStatus{PackageID: id, Address: l.address, DialledIn: true, Connected: l.isReady(), InFlight: l.inFlight()})
	}
	return list
}

// Register serves protos.ChaincodeSupport: chaincode that dials in. It returns
// when the connection ends. Config.AdmitDialIn decides who may register; a name
// that is connected already is refused, as in Fabric.
func (h *Host) Register(stream peerpb.ChaincodeSupport_RegisterServer) error {
	address := "unknown address"
	if p, ok := peer.FromContext(stream.Context()); ok {
		address = p.Addr.String()
	}
	if h.cfg.AdmitDialIn == nil {
		return status.Error(codes.PermissionDenied, "this peer accepts no chaincode that dials in; run the chaincode as a service, or switch on development mode in the peer's configuration")
	}
	l := newLink(h, address)
	admit := func(id string) error {
		if err := h.cfg.AdmitDialIn(stream.Context(), id); err != nil {
			return err
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if err := l.reason(); err != nil {
			return err // ended already: Register has cleaned up or is about to
		}
		if other, ok := h.dialled[id]; ok {
			return fmt.Errorf("chaincode %q is already connected from %s; stop that process first", id, other.address)
		}
		h.dialled[id] = l
		return nil
	}
	stop := context.AfterFunc(h.ctx, func() { l.fail(ErrClosed) })
	defer stop()
	handshake := time.AfterFunc(h.cfg.ExecuteTimeout, func() {
		l.failUnlessReady(errors.New("no REGISTER message came"))
	})
	defer handshake.Stop()
	err := l.run(stream, admit)
	h.mu.Lock()
	name := l.name()
	maps.DeleteFunc(h.dialled, func(_ string, other *link) bool { return other == l })
	h.mu.Unlock()
	h.cfg.Logger.Info("chaincode that had dialled in is gone", "chaincode", name, "address", address, "reason", err)
	if l.isReady() {
		return status.Error(codes.Unavailable, err.Error())
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}

// connected finds the link for an invocation, waiting for a dial attempt to a
// service that is not connected at the moment.
func (h *Host) connected(ctx context.Context, inv *Invocation) (*link, error) {
	h.mu.RLock()
	s := h.services[inv.PackageID]
	in := h.dialled[inv.PackageID]
	if in == nil {
		in = h.dialled[inv.Namespace]
	}
	h.mu.RUnlock()
	if in != nil && !in.isReady() {
		in = nil // admitted, but REGISTERED and READY are not sent yet
	}
	if s == nil {
		if in != nil {
			return in, nil
		}
		return nil, fmt.Errorf("%w: chaincode %q (package %q) is not installed here or did not dial in; install its package on this peer", ErrUnavailable, inv.Namespace, inv.PackageID)
	}
	if l, _ := s.current(); l != nil {
		return l, nil
	}
	if in != nil {
		return in, nil
	}
	l, err := s.await(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: chaincode %q (package %q) at %s: %w; start the service there or correct connection.json", ErrUnavailable, inv.Namespace, inv.PackageID, s.conn.Address, err)
	}
	return l, nil
}
