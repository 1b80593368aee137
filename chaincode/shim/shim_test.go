package shim

import (
	"slices"
	"strings"
	"testing"

	"strongroom/wire/commonpb"
	"strongroom/wire/peerpb"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// Splitting gives back what was joined, and keys sort with their prefixes.
func TestCompositeKeys(t *testing.T) {
	part := rapid.StringMatching(`[^\x00\x{10FFFF}]*`)
	rapid.Check(t, func(t *rapid.T) {
		kind := part.Draw(t, "type")
		attrs := rapid.SliceOf(part).Draw(t, "attributes")
		k, err := CreateCompositeKey(kind, attrs...)
		if err != nil {
			t.Fatal(err)
		}
		gotKind, got, err := SplitCompositeKey(k)
		if err != nil || gotKind != kind || !slices.Equal(got, attrs) {
			t.Fatalf("%q %q became %q %q, %v", kind, attrs, gotKind, got, err)
		}
		for n := range attrs {
			prefix, err := CreateCompositeKey(kind, attrs[:n]...)
			if err != nil || !strings.HasPrefix(k, prefix) || k < prefix || k >= prefix+maxRune {
				t.Fatalf("%q is not in the range of %q, %v", k, prefix, err)
			}
		}
	})
	for _, bad := range []string{"\x00", "a\U0010FFFF", "\xff"} {
		if k, err := CreateCompositeKey("t", bad); err == nil {
			t.Errorf("%q was made a key: %q", bad, k)
		}
	}
	// Fabric's bytes.
	if k, err := CreateCompositeKey("owner~id", "ann", "car1"); err != nil || k != "\x00owner~id\x00ann\x00car1\x00" {
		t.Errorf("%q %v", k, err)
	}
}

func FuzzSplitCompositeKey(f *testing.F) {
	f.Add("\x00owner~id\x00ann\x00car1\x00")
	f.Add("\x00")
	f.Add("simple")
	f.Fuzz(func(t *testing.T, k string) {
		kind, attrs, err := SplitCompositeKey(k)
		if err != nil {
			return
		}
		again, err := CreateCompositeKey(kind, attrs...)
		if err == nil && again != k {
			t.Fatalf("%q became %q", k, again)
		}
	})
}

// Whatever a peer sends to start a transaction makes a stub or an error.
func FuzzNewStub(f *testing.F) {
	seed := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	header := seed(&commonpb.Header{ChannelHeader: seed(&commonpb.ChannelHeader{ChannelId: "main"}), SignatureHeader: seed(&commonpb.SignatureHeader{Creator: []byte("x")})})
	f.Add(seed(&peerpb.ChaincodeInput{Args: [][]byte{[]byte("f"), []byte("a")}}), seed(&peerpb.Proposal{Header: header}))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, payload, proposal []byte) {
		stub, err := newStub(nil, &peerpb.ChaincodeMessage{Payload: payload, Proposal: &peerpb.SignedProposal{ProposalBytes: proposal}})
		if err != nil {
			return
		}
		if name, params := stub.GetFunctionAndParameters(); len(params) > 0 && len(stub.GetArgs()) != len(params)+1 {
			t.Fatal(name, params)
		}
		if id, err := stub.GetCreator(); err == nil && id.ID() == "" {
			t.Fatal("an identity without a name")
		}
		if at, err := stub.GetTxTimestamp(); err != nil && !at.IsZero() {
			t.Fatal(at)
		}
	})
}

func TestConfig(t *testing.T) {
	for want, c := range map[string]Config{
		"package id is empty": {Address: "a:1"},
		"is not host:port":    {Address: "a", PackageID: "x"},
	} {
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", c, err)
		}
		if err := Serve(t.Context(), nil, c); err == nil {
			t.Error("served with a bad configuration")
		}
		if err := Dial(t.Context(), nil, c); err == nil {
			t.Error("dialled with a bad configuration")
		}
	}
}
