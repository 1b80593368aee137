package rpcerr

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"strongroom/acl"
	"strongroom/bccsp"
	"strongroom/ledger"
	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/peerpb"
)

func TestStatus(t *testing.T) {
	secret := errors.New("CKR_DEVICE_ERROR on slot 7")
	tests := []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"canceled", fmt.Errorf("commit status: %w", context.Canceled), codes.Canceled, "the request was canceled"},
		{"deadline", context.DeadlineExceeded, codes.DeadlineExceeded, "the request took too long"},
		{"refusal hides its cause", fmt.Errorf("x: %w", &Refusal{Public: "access denied: channel [c] creator org [Org1MSP]", Decision: "d1", Cause: secret}),
			codes.PermissionDenied, "access denied: channel [c] creator org [Org1MSP] (decision d1)"},
		{"refusal before its cause", &Refusal{Public: "access denied", Cause: bccsp.ErrBadSignature}, codes.PermissionDenied, "access denied"},
		{"identity", &msp.InvalidError{MSPID: "Org1MSP", Reason: "revoked"}, codes.PermissionDenied, "access denied"},
		{"signature", fmt.Errorf("key 1: %w", bccsp.ErrBadSignature), codes.PermissionDenied, "access denied"},
		{"malformed", Malformed("nonce is empty: set %s", "SignatureHeader.nonce"), codes.InvalidArgument, "nonce is empty: set SignatureHeader.nonce"},
		{"fault", &wire.Fault{Code: peerpb.TxValidationCode_BAD_PAYLOAD, Reason: "r"}, codes.InvalidArgument, "BAD_PAYLOAD: r"},
		{"channel", fmt.Errorf("%q: %w", "c", ErrUnknownChannel), codes.NotFound, `"c": channel is not joined by this peer`},
		{"not found", ErrNotFound, codes.NotFound, "not found"},
		{"denied", fmt.Errorf("x: %w", acl.ErrDenied), codes.PermissionDenied, "access denied"},
		{"not in the ledger", ledger.ErrNotFound, codes.NotFound, ledger.ErrNotFound.Error()},
		{"busy", ErrBusy, codes.ResourceExhausted, ErrBusy.Error()},
		{"unimplemented", ErrUnimplemented, codes.Unimplemented, ErrUnimplemented.Error()},
		{"precondition", ErrPrecondition, codes.FailedPrecondition, ErrPrecondition.Error()},
		{"status stays", status.Error(codes.Aborted, "a"), codes.Aborted, "a"},
		{"ours", secret, codes.Internal, "internal error: the peer's log says more"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			st, ok := status.FromError(Status(test.err))
			if !ok {
				t.Fatalf("Status(%v) is no status", test.err)
			}
			if st.Code() != test.code || st.Message() != test.text {
				t.Errorf("Status = %s %q, want %s %q", st.Code(), st.Message(), test.code, test.text)
			}
			if Code(test.err) != test.code {
				t.Errorf("Code = %s, want %s", Code(test.err), test.code)
			}
		})
	}
	if Status(nil) != nil {
		t.Error("Status(nil) is not nil")
	}
}

func TestDetailNamesTheCause(t *testing.T) {
	err := fmt.Errorf("proposal: %w", &Refusal{Public: "access denied", Cause: errors.New("certificate is revoked")})
	if got := Detail(err); !strings.Contains(got, "certificate is revoked") {
		t.Errorf("Detail = %q: the cause is missing", got)
	}
	if strings.Contains(err.Error(), "revoked") {
		t.Errorf("Error = %q shows the cause", err.Error())
	}
}

func TestWithDetails(t *testing.T) {
	want := &gatewaypb.ErrorDetail{Address: "peer0:7051", MspId: "Org1MSP", Message: "m"}
	err := WithDetails(codes.Aborted, "failed", protoadapt.MessageV1Of(want))
	details := status.Convert(err).Details()
	if len(details) != 1 {
		t.Fatalf("got %d details, want 1", len(details))
	}
	if got, ok := details[0].(*gatewaypb.ErrorDetail); !ok || got.Address != want.Address || got.MspId != want.MspId || got.Message != want.Message {
		t.Errorf("detail = %v, want %v", details[0], want)
	}
}
