package gateway

import (
	"strings"
	"testing"

	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
	"strongroom/wire/rwsetpb"
)

func payloadOf(t testing.TB, version string, kv *kvrwsetpb.KVRWSet, response *peerpb.Response) []byte {
	t.Helper()
	return mustMarshal(t, &peerpb.ProposalResponsePayload{ProposalHash: []byte{1}, Extension: mustMarshal(t, &peerpb.ChaincodeAction{
		Results:     mustMarshal(t, &rwsetpb.TxReadWriteSet{NsRwset: []*rwsetpb.NsReadWriteSet{{Namespace: "kv", Rwset: mustMarshal(t, kv)}}}),
		Response:    response,
		ChaincodeId: &peerpb.ChaincodeID{Name: "kv", Version: version},
	})})
}

func TestDifferences(t *testing.T) {
	ok := &peerpb.Response{Status: 200}
	read := func(block uint64) *kvrwsetpb.KVRWSet {
		return &kvrwsetpb.KVRWSet{Reads: []*kvrwsetpb.KVRead{{Key: "a", Version: &kvrwsetpb.Version{BlockNum: block}}}}
	}
	write := func(value string) *kvrwsetpb.KVRWSet {
		return &kvrwsetpb.KVRWSet{Writes: []*kvrwsetpb.KVWrite{{Key: "a", Value: []byte(value)}}}
	}
	base := payloadOf(t, "1.0", read(3), ok)
	tests := []struct {
		name          string
		first, second []byte
		want          string
	}{
		{"read version", base, payloadOf(t, "1.0", read(4), ok), `read of "a" in "kv" at 3:0 against at 4:0`},
		{"chaincode version", base, payloadOf(t, "1.1", read(3), ok), `chaincode version "1.0" against "1.1"`},
		{"response", base, payloadOf(t, "1.0", read(3), &peerpb.Response{Status: 201, Payload: []byte("xy")}), "status 201 with 2 bytes (SHA-256 769a4e6d0003189c…)"},
		{"missing", base, payloadOf(t, "1.0", &kvrwsetpb.KVRWSet{}, ok), `read of "a" in "kv" only in the first`},
		{"extra", payloadOf(t, "1.0", &kvrwsetpb.KVRWSet{}, ok), base, `read of "a" in "kv" only in the second`},
		{"value is not shown", payloadOf(t, "1.0", write("secret-1"), ok), payloadOf(t, "1.0", write("secret-2"), ok), `write of "a" in "kv" of 8 bytes (SHA-256 f7e7c36e458e80e6…) against of 8 bytes (SHA-256 `},
		{"garbage", base, []byte{0xff}, "one of the payloads does not parse"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := differences(test.first, test.second)
			if !strings.Contains(got, test.want) {
				t.Errorf("differences = %q, want it to contain %q", got, test.want)
			}
			if strings.Contains(got, "secret") {
				t.Errorf("differences = %q shows a value", got)
			}
		})
	}
}

func FuzzDifferences(f *testing.F) {
	f.Add([]byte{}, []byte{0xff})
	f.Add([]byte("\n\x01\x01\x12\x00"), []byte("\n\x01\x02"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if differences(a, b) == "" {
			t.Error("no words for two payloads")
		}
	})
}
