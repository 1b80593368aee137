// Package rpcerr is the one table from the peer's errors to gRPC statuses: what a
// remote caller may know about a failure. Access problems and failures of ours are
// opaque outside, with an id or none; their detail is for the peer's own logs. It
// performs no I/O.
package rpcerr

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"strongroom/acl"
	"strongroom/acl/decisions"
	"strongroom/bccsp"
	"strongroom/ledger"
	"strongroom/msp"
	"strongroom/wire"
)

// Sentinels of the services. Wrap them with %w and say what to do.
var (
	// ErrUnknownChannel: the peer has not joined the channel.
	ErrUnknownChannel = errors.New("channel is not joined by this peer")
	// ErrNotFound: a block, transaction, package or definition does not exist.
	ErrNotFound = errors.New("not found")
	// ErrBusy: the service is at its limit of concurrent requests.
	ErrBusy = errors.New("too many requests at once: try again later")
	// ErrUnimplemented: the peer does not offer this on purpose; the text says what to use.
	ErrUnimplemented = errors.New("not offered by this peer")
	// ErrPrecondition: the request is sound, but the state of the peer does not allow it.
	ErrPrecondition = errors.New("precondition does not hold")
)

// MalformedError says that a request cannot be understood. Its text is shown to
// the caller: it names the field and the fix, and holds nothing secret.
type MalformedError struct{ Reason string }

// Error is the reason.
func (e *MalformedError) Error() string { return e.Reason }

// Malformed makes a MalformedError.
func Malformed(format string, args ...any) error {
	return &MalformedError{Reason: fmt.Sprintf(format, args...)}
}

// Refusal is a denial of access. Public goes to the caller, with the id of the
// decision; Cause is the detail, for our logs alone.
type Refusal struct {
	Public   string // without the reason: which channel and organisation, no more
	Decision string // id in the decision log, "" when no policy was asked
	Cause    error
}

// Error is what the caller reads. The cause is not part of it.
func (r *Refusal) Error() string {
	if r.Decision == "" {
		return r.Public
	}
	return r.Public + " (decision " + r.Decision + ")"
}

// Unwrap gives the cause to errors.Is and errors.As.
func (r *Refusal) Unwrap() error { return r.Cause }

// Detail is err's text for our own logs: a refusal with its cause.
func Detail(err error) string {
	var r *Refusal
	if errors.As(err, &r) && r.Cause != nil {
		return err.Error() + ": " + r.Cause.Error()
	}
	return err.Error()
}

type row struct {
	match func(error) bool
	code  codes.Code
	// text is what the caller reads; "" means the error's own text.
	text string
}

// table is searched from the top: the first row that matches decides.
var table = []row{
	{is(context.Canceled), codes.Canceled, "the request was canceled"},
	{is(context.DeadlineExceeded), codes.DeadlineExceeded, "the request took too long"},
	{as[*Refusal], codes.PermissionDenied, ""},
	{is(decisions.ErrNotKept), codes.Unavailable, "this node cannot record its decisions and makes none: its log says why"},
	{is(acl.ErrDenied), codes.PermissionDenied, "access denied"},
	{as[*msp.InvalidError], codes.PermissionDenied, "access denied"},
	{is(bccsp.ErrBadSignature), codes.PermissionDenied, "access denied"},
	{as[*MalformedError], codes.InvalidArgument, ""},
	{as[*wire.Fault], codes.InvalidArgument, ""},
	{is(ErrUnknownChannel), codes.NotFound, ""},
	{is(ErrNotFound), codes.NotFound, ""},
	{is(ledger.ErrNotFound), codes.NotFound, ""},
	{is(ErrBusy), codes.ResourceExhausted, ""},
	{is(ErrUnimplemented), codes.Unimplemented, ""},
	{is(ErrPrecondition), codes.FailedPrecondition, ""},
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func as[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// Status is err as a gRPC status error, or nil for nil. An error that already is a
// status stays as it is. What no row of the table names is a failure of ours and
// becomes Internal without its text.
func Status(err error) error {
	if err == nil {
		return nil
	}
	var own interface{ GRPCStatus() *status.Status }
	if errors.As(err, &own) && own.GRPCStatus().Code() != codes.OK {
		return own.GRPCStatus().Err()
	}
	for _, r := range table {
		if !r.match(err) {
			continue
		}
		text := r.text
		switch {
		case r.code == codes.PermissionDenied && text == "":
			var refusal *Refusal
			errors.As(err, &refusal)
			text = refusal.Error()
		case text == "":
			text = err.Error()
		}
		return status.Error(r.code, text)
	}
	return status.Error(codes.Internal, "internal error: the peer's log says more")
}

// Code is the gRPC code of Status(err).
func Code(err error) codes.Code { return status.Code(Status(err)) }

// WithDetails is a status error with detail messages, as Fabric's gateway attaches
// gateway.ErrorDetail. Details that cannot be marshalled are left out.
func WithDetails(code codes.Code, text string, details ...protoadapt.MessageV1) error {
	st := status.New(code, text)
	if len(details) > 0 {
		if with, err := st.WithDetails(details...); err == nil {
			st = with
		}
	}
	return st.Err()
}
