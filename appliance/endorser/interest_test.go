package endorser

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
)

func TestInterestOfOneNamespace(t *testing.T) {
	env := &commonpb.SignaturePolicyEnvelope{Version: 7}
	raw, err := proto.Marshal(env)
	if err != nil {
		t.Fatal(err)
	}
	policies := map[publicKey][]byte{{"kv", "guarded"}: raw, {"kv", "guarded too"}: raw}
	write := func(keys ...string) *kvrwsetpb.KVRWSet {
		s := &kvrwsetpb.KVRWSet{}
		for _, k := range keys {
			s.Writes = append(s.Writes, &kvrwsetpb.KVWrite{Key: k})
		}
		return s
	}
	private := []wire.CollectionSet{{Collection: "c", Hashed: &kvrwsetpb.HashedRWSet{HashedWrites: []*kvrwsetpb.KVWriteHash{{}}}}}
	collection := &peerpb.ChaincodeCall{Name: "kv", CollectionNames: []string{"c"}, NoPrivateReads: true}
	tests := []struct {
		name string
		ns   wire.NamespaceSet
		want []*peerpb.ChaincodeCall
	}{
		{"only read", wire.NamespaceSet{KV: &kvrwsetpb.KVRWSet{}}, []*peerpb.ChaincodeCall{{Name: "kv"}}},
		{"plain write", wire.NamespaceSet{KV: write("a")}, []*peerpb.ChaincodeCall{{Name: "kv"}}},
		{"guarded keys alone", wire.NamespaceSet{KV: write("guarded", "guarded too")},
			[]*peerpb.ChaincodeCall{{Name: "kv", KeyPolicies: []*commonpb.SignaturePolicyEnvelope{env}, DisregardNamespacePolicy: true}}},
		{"guarded and plain", wire.NamespaceSet{KV: write("a", "guarded")},
			[]*peerpb.ChaincodeCall{{Name: "kv", KeyPolicies: []*commonpb.SignaturePolicyEnvelope{env}}}},
		{"metadata of a guarded key", wire.NamespaceSet{KV: &kvrwsetpb.KVRWSet{MetadataWrites: []*kvrwsetpb.KVMetadataWrite{{Key: "guarded"}}}},
			[]*peerpb.ChaincodeCall{{Name: "kv", KeyPolicies: []*commonpb.SignaturePolicyEnvelope{env}, DisregardNamespacePolicy: true}}},
		{"private writes alone", wire.NamespaceSet{KV: &kvrwsetpb.KVRWSet{}, Collections: private}, []*peerpb.ChaincodeCall{collection}},
		{"private and public", wire.NamespaceSet{KV: write("a"), Collections: private}, []*peerpb.ChaincodeCall{{Name: "kv"}, collection}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.ns.Namespace = "kv"
			got, err := calls(&test.ns, policies, func(string, string) bool { return false })
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := calls(&wire.NamespaceSet{Namespace: "kv", KV: write("broken")}, map[publicKey][]byte{{"kv", "broken"}: {0xff}}, nil); err == nil {
		t.Error("a key policy that does not parse gave no error")
	}
}
