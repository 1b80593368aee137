package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"strongroom/chaincode/shim"
	"strongroom/wire/queryresultpb"
)

// ownerIndex is the object type of the composite keys owner, id.
const ownerIndex = "owner~id"

const maxField = 256 // bytes of an id, colour or owner

// Asset is what is kept under its ID. The fields stand in alphabetical order, so
// that chaincode in any language writes the same bytes.
type Asset struct {
	AppraisedValue int
	Color          string
	ID             string
	Owner          string
	Size           int
}

// AssetPage is one page of assets. Bookmark starts the next; of a range it is ""
// after the last, of a query the last page is one that is not full.
type AssetPage struct {
	Assets   []Asset
	Bookmark string
	Count    int32
}

// Change is one entry of an asset's history.
type Change struct {
	IsDelete  bool
	Record    *Asset `json:",omitempty"`
	Timestamp string
	TxID      string `json:"TxId"`
}

// Assets is the chaincode. It keeps no state of its own.
type Assets struct{}

// function is one entry of the contract: its parameters and what it does.
type function struct {
	params []string
	run    func(stub *shim.Stub, args []string) (any, error)
}

var functions = map[string]function{
	"InitLedger":       {nil, initLedger},
	"CreateAsset":      {[]string{"id", "color", "size", "owner", "appraisedValue"}, createAsset},
	"ReadAsset":        {[]string{"id"}, func(s *shim.Stub, a []string) (any, error) { return read(s, a[0]) }},
	"UpdateAsset":      {[]string{"id", "color", "size", "owner", "appraisedValue"}, updateAsset},
	"TransferAsset":    {[]string{"id", "newOwner"}, transferAsset},
	"DeleteAsset":      {[]string{"id"}, deleteAsset},
	"AssetExists":      {[]string{"id"}, assetExists},
	"GetAllAssets":     {nil, getAllAssets},
	"GetAssetsByRange": {[]string{"start", "end", "pageSize", "bookmark"}, getAssetsByRange},
	"GetAssetsByOwner": {[]string{"owner"}, getAssetsByOwner},
	"GetAssetHistory":  {[]string{"id"}, getAssetHistory},
	"QueryAssets":      {[]string{"query"}, queryAssets},
	"QueryAssetsPage":  {[]string{"query", "pageSize", "bookmark"}, queryAssetsPage},
}

// Init has nothing to do; InitLedger fills the register if that is wanted.
func (Assets) Init(*shim.Stub) shim.Response { return shim.Success(nil) }

// Invoke runs one function of the contract.
func (Assets) Invoke(stub *shim.Stub) shim.Response {
	name, args := stub.GetFunctionAndParameters()
	if contract, rest, ok := strings.Cut(name, ":"); ok && (contract == "AssetContract" || contract == "") {
		name = rest
	}
	f, ok := functions[name]
	if !ok {
		return shim.Error(fmt.Sprintf("function %q does not exist; there are CreateAsset, ReadAsset, UpdateAsset, TransferAsset, DeleteAsset, AssetExists, GetAllAssets, GetAssetsByRange, GetAssetsByOwner, GetAssetHistory, QueryAssets, QueryAssetsPage and InitLedger", name))
	}
	if len(args) != len(f.params) {
		return shim.Error(fmt.Sprintf("%s takes %d arguments (%s) but got %d", name, len(f.params), strings.Join(f.params, ", "), len(args)))
	}
	result, err := f.run(stub, args)
	if err != nil {
		return shim.Error(err.Error())
	}
	if result == nil {
		return shim.Success(nil)
	}
	if text, ok := result.(string); ok { // plain text, as contracts in other languages return it
		return shim.Success([]byte(text))
	}
	payload, err := encode(result)
	if err != nil {
		return shim.Error(err.Error())
	}
	return shim.Success(payload)
}

func initLedger(stub *shim.Stub, _ []string) (any, error) {
	for _, a := range []Asset{
		{300, "blue", "asset1", "Tomoko", 5},
		{400, "red", "asset2", "Brad", 5},
		{500, "green", "asset3", "Jin Soo", 10},
		{600, "yellow", "asset4", "Max", 10},
		{700, "black", "asset5", "Adriana", 15},
		{800, "white", "asset6", "Michel", 15},
	} {
		if err := write(stub, nil, &a); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func createAsset(stub *shim.Stub, args []string) (any, error) {
	a, err := parse(args)
	if err != nil {
		return nil, err
	}
	if old, err := stub.GetState(a.ID); err != nil {
		return nil, err
	} else if old != nil {
		return nil, fmt.Errorf("the asset %s already exists; use UpdateAsset to change it", a.ID)
	}
	if err := write(stub, nil, a); err != nil {
		return nil, err
	}
	return nil, event(stub, "AssetCreated", a)
}

func updateAsset(stub *shim.Stub, args []string) (any, error) {
	a, err := parse(args)
	if err != nil {
		return nil, err
	}
	old, err := read(stub, a.ID)
	if err != nil {
		return nil, err
	}
	return nil, write(stub, old, a)
}

// transferAsset returns the owner before.
func transferAsset(stub *shim.Stub, args []string) (any, error) {
	if err := check("newOwner", args[1]); err != nil {
		return nil, err
	}
	old, err := read(stub, args[0])
	if err != nil {
		return nil, err
	}
	a := *old
	a.Owner = args[1]
	if err := write(stub, old, &a); err != nil {
		return nil, err
	}
	return old.Owner, event(stub, "AssetTransferred", &a)
}

func deleteAsset(stub *shim.Stub, args []string) (any, error) {
	old, err := read(stub, args[0])
	if err != nil {
		return nil, err
	}
	k, err := shim.CreateCompositeKey(ownerIndex, old.Owner, old.ID)
	if err != nil {
		return nil, err
	}
	if err := stub.DelState(k); err != nil {
		return nil, err
	}
	if err := stub.DelState(old.ID); err != nil {
		return nil, err
	}
	return nil, event(stub, "AssetDeleted", old)
}

func assetExists(stub *shim.Stub, args []string) (any, error) {
	if err := check("id", args[0]); err != nil {
		return nil, err
	}
	v, err := stub.GetState(args[0])
	return strconv.FormatBool(v != nil), err
}

func getAllAssets(stub *shim.Stub, _ []string) (any, error) {
	all := []Asset{}
	for kv, err := range stub.GetStateByRange("", "") {
		if err != nil {
			return nil, err
		}
		a, err := decode(kv)
		if err != nil {
			return nil, err
		}
		all = append(all, *a)
	}
	return all, nil
}

func getAssetsByRange(stub *shim.Stub, args []string) (any, error) {
	size, err := pageSize(args[2])
	if err != nil {
		return nil, err
	}
	rows, page, err := stub.GetStateByRangeWithPagination(args[0], args[1], size, args[3])
	if err != nil {
		return nil, err
	}
	return newPage(rows, page)
}

func getAssetsByOwner(stub *shim.Stub, args []string) (any, error) {
	var ids []string
	for kv, err := range stub.GetStateByPartialCompositeKey(ownerIndex, args[0]) {
		if err != nil {
			return nil, err
		}
		_, parts, err := shim.SplitCompositeKey(kv.Key)
		if err != nil || len(parts) != 2 {
			return nil, fmt.Errorf("the owner index has a bad key %q", kv.Key)
		}
		ids = append(ids, parts[1])
	}
	values, err := stub.GetStates(ids...)
	if err != nil {
		return nil, err
	}
	owned := []Asset{}
	for i, v := range values {
		a, err := decode(&queryresultpb.KV{Key: ids[i], Value: v})
		if err != nil {
			return nil, err
		}
		owned = append(owned, *a)
	}
	return owned, nil
}

func getAssetHistory(stub *shim.Stub, args []string) (any, error) {
	if err := check("id", args[0]); err != nil {
		return nil, err
	}
	changes := []Change{}
	for m, err := range stub.GetHistoryForKey(args[0]) {
		if err != nil {
			return nil, err
		}
		c := Change{IsDelete: m.IsDelete, TxID: m.TxId, Timestamp: m.Timestamp.AsTime().Format(time.RFC3339Nano)}
		if !m.IsDelete {
			if c.Record, err = decode(&queryresultpb.KV{Key: args[0], Value: m.Value}); err != nil {
				return nil, err
			}
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// read is an asset that must exist.
func read(stub *shim.Stub, id string) (*Asset, error) {
	if err := check("id", id); err != nil {
		return nil, err
	}
	v, err := stub.GetState(id)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, fmt.Errorf("the asset %s does not exist", id)
	}
	return decode(&queryresultpb.KV{Key: id, Value: v})
}

// write puts an asset and keeps the owner index in step with it.
func write(stub *shim.Stub, old, a *Asset) error {
	v, err := encode(a)
	if err != nil {
		return err
	}
	if err := stub.PutState(a.ID, v); err != nil {
		return err
	}
	if old != nil {
		if old.Owner == a.Owner {
			return nil
		}
		k, err := shim.CreateCompositeKey(ownerIndex, old.Owner, old.ID)
		if err != nil {
			return err
		}
		if err := stub.DelState(k); err != nil {
			return err
		}
	}
	k, err := shim.CreateCompositeKey(ownerIndex, a.Owner, a.ID)
	if err != nil {
		return err
	}
	return stub.PutState(k, []byte{0}) // a value: an empty one would delete
}

func event(stub *shim.Stub, name string, a *Asset) error {
	payload, err := encode(a)
	if err != nil {
		return err
	}
	return stub.SetEvent(name, payload)
}

// parse reads id, color, size, owner, appraisedValue.
func parse(args []string) (*Asset, error) {
	a := &Asset{ID: args[0], Color: args[1], Owner: args[3]}
	for _, f := range []struct{ name, value string }{{"id", a.ID}, {"color", a.Color}, {"owner", a.Owner}} {
		if err := check(f.name, f.value); err != nil {
			return nil, err
		}
	}
	var err error
	if a.Size, err = number("size", args[2]); err != nil {
		return nil, err
	}
	a.AppraisedValue, err = number("appraisedValue", args[4])
	return a, err
}

func check(name, value string) error {
	switch {
	case value == "":
		return fmt.Errorf("%s must not be empty", name)
	case len(value) > maxField:
		return fmt.Errorf("%s has %d bytes; at most %d are allowed", name, len(value), maxField)
	case strings.ContainsAny(value, "\x00\U0010FFFF"):
		return fmt.Errorf("%s has a reserved character (U+0000 or U+10FFFF)", name)
	}
	return nil
}

func number(name, value string) (int, error) {
	n, err := strconv.ParseUint(value, 10, 53) // what JavaScript holds exactly
	if err != nil {
		return 0, fmt.Errorf("%s %q is not a whole number from 0 on", name, value)
	}
	return int(n), nil
}

// encode is JSON as JavaScript writes it: no HTML escapes.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func decode(kv *queryresultpb.KV) (*Asset, error) {
	a := new(Asset)
	if err := json.Unmarshal(kv.Value, a); err != nil {
		return nil, fmt.Errorf("the value under %q is not an asset: %w", kv.Key, err)
	}
	return a, nil
}
