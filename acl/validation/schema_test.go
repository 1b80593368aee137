package validation

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/acl"
	"strongroom/acl/endorsement"
	"strongroom/wire"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
	"strongroom/wire/rwsetpb"
)

// optional are the fields that are not always there.
var optional = map[string]bool{"value": true}

// TestSchemasSayEverything: in all schemas, each field has a description, objects are closed,
// and every field but value is always there.
func TestSchemasSayEverything(t *testing.T) {
	for name, raw := range map[string][]byte{"acl": acl.InputSchema, "connection": acl.ConnectionSchema, "endorsement": endorsement.InputSchema, "validation": InputSchema} {
		var schema map[string]any
		if err := json.Unmarshal(raw, &schema); err != nil {
			t.Fatal(err)
		}
		if n := describe(t, name, schema); n < 8 {
			t.Errorf("%s: %d fields", name, n)
		}
	}
}

func describe(t *testing.T, path string, schema map[string]any) (fields int) {
	t.Helper()
	properties, _ := schema["properties"].(map[string]any)
	required := map[string]bool{}
	list, _ := schema["required"].([]any)
	for _, r := range list {
		required[r.(string)] = true
	}
	if properties != nil && schema["additionalProperties"] != false {
		t.Errorf("%s takes fields that it does not name", path)
	}
	for name, p := range properties {
		field := p.(map[string]any)
		if text, _ := field["description"].(string); text == "" {
			t.Errorf("%s.%s has no description", path, name)
		}
		if required[name] == optional[name] {
			t.Errorf("%s.%s: required %t", path, name, required[name])
		}
		fields += 1 + describe(t, path+"."+name, field)
		if items, ok := field["items"].(map[string]any); ok {
			fields += describe(t, path+"."+name+"[]", items)
		}
	}
	return fields
}

// TestDocumentsHaveTheirSchema shows rules a result that has one of everything: each object
// in the document has the fields of its schema.
func TestDocumentsHaveTheirSchema(t *testing.T) {
	tx := transaction(t)
	marshal := func(m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	metadata := []*kvrwsetpb.KVMetadataEntry{{Name: "VALIDATION_PARAMETER", Value: []byte("p")}}
	kv := &kvrwsetpb.KVRWSet{
		Reads:            []*kvrwsetpb.KVRead{{Key: "a", Version: &kvrwsetpb.Version{BlockNum: 1}}},
		RangeQueriesInfo: []*kvrwsetpb.RangeQueryInfo{{StartKey: "a", EndKey: "b"}},
		Writes:           []*kvrwsetpb.KVWrite{{Key: "a", Value: []byte(`{}`)}, {Key: "b", IsDelete: true}},
		MetadataWrites:   []*kvrwsetpb.KVMetadataWrite{{Key: "a", Entries: metadata}},
	}
	tx.Endorsed.ReadWriteSet = &wire.ReadWriteSet{Namespaces: []wire.NamespaceSet{{Namespace: "payments", KV: kv, Collections: []wire.CollectionSet{
		{Collection: "c", Hashed: &kvrwsetpb.HashedRWSet{HashedReads: []*kvrwsetpb.KVReadHash{{KeyHash: []byte("h")}}}},
	}}}}
	tx.Endorsed.Event = &peerpb.ChaincodeEvent{EventName: "e", Payload: []byte("{}")}
	tx.Endorsed.Action.Response.Payload = []byte("{}")
	private := &rwsetpb.TxPvtReadWriteSet{NsPvtRwset: []*rwsetpb.NsPvtReadWriteSet{{Namespace: "payments", CollectionPvtRwset: []*rwsetpb.CollectionPvtReadWriteSet{{
		CollectionName: "c", Rwset: marshal(&kvrwsetpb.KVRWSet{Writes: kv.Writes, MetadataWrites: kv.MetadataWrites}),
	}}}}}
	guard, err := endorsement.Document(&endorsement.Proposal{
		ChannelID: "main", TxID: "t", Chaincode: "payments", Version: "1", Args: [][]byte{[]byte("f"), []byte("x")}, Transient: []string{"secret"}, Caller: tx.Creator,
		Response: tx.Endorsed.Action.Response, Event: tx.Endorsed.Event, Set: tx.Endorsed.ReadWriteSet, Private: private,
	})
	if err != nil {
		t.Fatal(err)
	}
	commit, err := input(tx)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		schema   []byte
		document fmt.Stringer
	}{"endorsement": {endorsement.InputSchema, guard}, "validation": {InputSchema, commit}} {
		var schema map[string]any
		var document any
		if err := errors.Join(json.Unmarshal(c.schema, &schema), json.Unmarshal([]byte(c.document.String()), &document)); err != nil {
			t.Fatal(err)
		}
		if n := conforms(t, name, document, schema); n < 30 {
			t.Errorf("%s: only %d fields were compared", name, n)
		}
	}
}

// conforms compares the fields of each object with its schema's, and says how many it saw.
func conforms(t *testing.T, path string, value any, schema map[string]any) (seen int) {
	t.Helper()
	switch v := value.(type) {
	case []any:
		items, ok := schema["items"].(map[string]any)
		if !ok {
			return 0
		}
		if len(v) == 0 && items["properties"] != nil {
			t.Errorf("%s is empty: nothing was compared", path)
		}
		for _, e := range v {
			seen += conforms(t, path+"[]", e, items)
		}
	case map[string]any:
		properties, ok := schema["properties"].(map[string]any)
		if !ok {
			return 0
		}
		for name, p := range properties {
			field, there := v[name]
			if !there {
				if !optional[name] {
					t.Errorf("%s.%s is not in the document", path, name)
				}
				continue
			}
			seen += 1 + conforms(t, path+"."+name, field, p.(map[string]any))
		}
		for name := range v {
			if properties[name] == nil {
				t.Errorf("%s.%s is not in the schema", path, name)
			}
		}
	}
	return seen
}
