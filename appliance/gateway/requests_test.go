package gateway

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"strongroom/ledger"
	"strongroom/ordering/client"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/gatewaypb"
	"strongroom/wire/ordererpb"
	"strongroom/wire/peerpb"
)

func FuzzSignedRequests(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0xff})
	f.Add([]byte("\n\x01t\x12\x01c\x1a\x01i"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if req, err := parseCommitStatus(&gatewaypb.SignedCommitStatusRequest{Request: raw}); (req == nil) == (err == nil) {
			t.Errorf("commit status: %v, %v", req, err)
		}
		req, err := parseChaincodeEvents(&gatewaypb.SignedChaincodeEventsRequest{Request: raw})
		if err != nil {
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("chaincode events: %v", err)
			}
			return
		}
		if _, err := startBlock(emptyChain{}, req); err != nil && status.Code(err) != codes.InvalidArgument {
			t.Errorf("start: %v", err)
		}
		matcher(req)(&wire.Block{Proto: &commonpb.Block{}, Txs: []*wire.Tx{{}}})
	})
}

type emptyChain struct{}

func (emptyChain) Height() uint64 { return 7 }
func (emptyChain) ValidationCode(string) (peerpb.TxValidationCode, uint64, error) {
	return 0, 0, ledger.ErrNotFound
}

func TestStartBlock(t *testing.T) {
	for _, test := range []struct {
		name string
		req  *gatewaypb.ChaincodeEventsRequest
		want uint64
	}{
		{"nothing said", &gatewaypb.ChaincodeEventsRequest{}, 7},
		{"unknown transaction", &gatewaypb.ChaincodeEventsRequest{AfterTransactionId: "x"}, 7},
		{"next", &gatewaypb.ChaincodeEventsRequest{StartPosition: &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_NextCommit{}}}, 7},
		{"a block", &gatewaypb.ChaincodeEventsRequest{StartPosition: &ordererpb.SeekPosition{Type: &ordererpb.SeekPosition_Specified{Specified: &ordererpb.SeekSpecified{Number: 3}}}}, 3},
	} {
		if got, err := startBlock(emptyChain{}, test.req); err != nil || got != test.want {
			t.Errorf("%s: %d, %v, want %d", test.name, got, err, test.want)
		}
	}
}

func TestMatcherWaitsForTheTransaction(t *testing.T) {
	tx := func(id, chaincode string) *wire.Tx {
		return &wire.Tx{ChannelHeader: &commonpb.ChannelHeader{TxId: id}, Endorsed: &wire.Endorsed{Event: &peerpb.ChaincodeEvent{ChaincodeId: chaincode, TxId: id}}}
	}
	b := &wire.Block{
		Proto: &commonpb.Block{Metadata: &commonpb.BlockMetadata{Metadata: [][]byte{nil, nil, {0, 0, 10, 0, 0}}}},
		Txs:   []*wire.Tx{tx("before", "kv"), tx("mark", "other"), tx("invalid", "kv"), tx("foreign", "other"), tx("good", "kv")},
	}
	got := matcher(&gatewaypb.ChaincodeEventsRequest{ChaincodeId: "kv", AfterTransactionId: "mark"})(b)
	if len(got) != 1 || got[0].GetTxId() != "good" {
		t.Errorf("events = %v, want that of good alone", got)
	}
	if got := matcher(&gatewaypb.ChaincodeEventsRequest{ChaincodeId: "kv"})(b); len(got) != 2 {
		t.Errorf("events = %v, want two", got)
	}
}

func TestSubmitError(t *testing.T) {
	down := errors.New("orderer o1:7050: connection refused")
	full := &client.StatusError{Endpoint: "o2:7050", Status: commonpb.Status_SERVICE_UNAVAILABLE, Info: "no leader"}
	err := submitError(t.Context(), fmt.Errorf("no orderer took the envelope: %w", errors.Join(down, full)))
	st := status.Convert(err)
	if st.Code() != codes.Unavailable || st.Message() != "no orderers could successfully process transaction" || len(st.Details()) != 2 {
		t.Fatalf("status = %v %v", st, st.Details())
	}
	if d := st.Details()[1].(*gatewaypb.ErrorDetail); d.GetAddress() != "o2:7050" || d.GetMessage() != "received unsuccessful response from orderer: status=SERVICE_UNAVAILABLE, info=no leader" {
		t.Errorf("detail = %v", d)
	}
	err = submitError(t.Context(), &client.StatusError{Endpoint: "o", Status: commonpb.Status_FORBIDDEN, Info: "no"})
	if st := status.Convert(err); st.Code() != codes.Aborted || st.Message() != "received unsuccessful response from orderer: status=FORBIDDEN, info=no" {
		t.Errorf("status = %v", st)
	}
}
