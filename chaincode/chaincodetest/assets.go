package chaincodetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A query of AssetContract and the bookmarks of its pages: they are the same bytes
// in every peer.
const (
	bySize       = `{"selector":{"Size":{"$lt":15}},"sort":["Size"]}`
	behindAsset2 = "ARAqWBEkDpqVFs_8_Yiyf4lbImFzc2V0MiIsNV0"
	behindAsset4 = "ARAqWBEkDpqVfmeqkuZ1XRJbImFzc2V0NCIsMTBd"
)

// AssetContract runs the business of the example chaincodes over a peer that
// runs one of them. All of them must pass it with the same answers and leave the
// same bytes behind.
func AssetContract(t *testing.T, p *Peer) {
	type call struct {
		name   string
		args   []string
		want   string // payload
		failed string // in the message, of a call that fails
	}
	asset := func(id, color string, size int, owner string, value int) string {
		return fmt.Sprintf(`{"AppraisedValue":%d,"Color":%q,"ID":%q,"Owner":%q,"Size":%d}`, value, color, id, owner, size)
	}
	for _, c := range []call{
		{"GetAllAssets", nil, "[]", ""},
		{"CreateAsset", []string{"car1", "red", "3", "ann", "100"}, "", ""},
		{"ReadAsset", []string{"car1"}, asset("car1", "red", 3, "ann", 100), ""},
		{"CreateAsset", []string{"car1", "blue", "3", "ann", "100"}, "", "the asset car1 already exists; use UpdateAsset"},
		{"CreateAsset", []string{"", "blue", "3", "ann", "100"}, "", "id must not be empty"},
		{"CreateAsset", []string{"car2", "blue", "three", "ann", "100"}, "", `size "three" is not a whole number`},
		{"CreateAsset", []string{"car2", "blue", "3", "ann", "-1"}, "", `appraisedValue "-1" is not a whole number`},
		{"CreateAsset", []string{"car2", "blue", "9007199254740992", "ann", "1"}, "", "is not a whole number"},
		{"CreateAsset", []string{strings.Repeat("x", 257), "blue", "3", "ann", "1"}, "", "id has 257 bytes; at most 256 are allowed"},
		{"ReadAsset", []string{"car2"}, "", "the asset car2 does not exist"},
		{"UpdateAsset", []string{"car2", "blue", "3", "ann", "1"}, "", "the asset car2 does not exist"},
		{"TransferAsset", []string{"car2", "bob"}, "", "the asset car2 does not exist"},
		{"DeleteAsset", []string{"car2"}, "", "the asset car2 does not exist"},
		{"AssetExists", []string{"car1"}, "true", ""},
		{"AssetExists", []string{"car2"}, "false", ""},
		{"NoSuchFunction", nil, "", `function "NoSuchFunction" does not exist`},
		{"TransferAsset", []string{"car1", "bob <b&b>"}, "ann", ""},
		{"ReadAsset", []string{"car1"}, asset("car1", "red", 3, "bob <b&b>", 100), ""},
		{"GetAssetsByOwner", []string{"ann"}, "[]", ""},
		{"GetAssetsByOwner", []string{"bob <b&b>"}, "[" + asset("car1", "red", 3, "bob <b&b>", 100) + "]", ""},
		{"UpdateAsset", []string{"car1", "grün", "4", "bob <b&b>", "90"}, "", ""},
		{"DeleteAsset", []string{"car1"}, "", ""},
		{"GetAssetsByOwner", []string{"bob <b&b>"}, "[]", ""},
		{"GetAssetsByRange", []string{"", "", "0", ""}, "", `pageSize "0" is not a number from 1 to 1000`},
		{"InitLedger", nil, "", ""},
		{"GetAssetsByOwner", []string{"Max"}, "[" + asset("asset4", "yellow", 10, "Max", 600) + "]", ""},
		{"GetAssetsByRange", []string{"", "", "2", ""}, `{"Assets":[` + asset("asset1", "blue", 5, "Tomoko", 300) + "," + asset("asset2", "red", 5, "Brad", 400) + `],"Bookmark":"asset3","Count":2}`, ""},
		{"GetAssetsByRange", []string{"", "", "2", "asset5"}, `{"Assets":[` + asset("asset5", "black", 15, "Adriana", 700) + "," + asset("asset6", "white", 15, "Michel", 800) + `],"Bookmark":"","Count":2}`, ""},
		{"QueryAssets", []string{`{"selector":{"Size":{"$gte":10},"Color":{"$ne":"black"}},"sort":[{"AppraisedValue":"desc"}]}`}, "[" + asset("asset6", "white", 15, "Michel", 800) + "," + asset("asset4", "yellow", 10, "Max", 600) + "," + asset("asset3", "green", 10, "Jin Soo", 500) + "]", ""},
		{"QueryAssets", []string{`{"selector":{"Owner":"nobody"}}`}, "[]", ""},
		{"QueryAssets", []string{`{"selector":{"Size":{"$about":10}}}`}, "", `operator "$about" of field "Size" is not known`},
		{"QueryAssetsPage", []string{bySize, "2", ""}, `{"Assets":[` + asset("asset1", "blue", 5, "Tomoko", 300) + "," + asset("asset2", "red", 5, "Brad", 400) + `],"Bookmark":"` + behindAsset2 + `","Count":2}`, ""},
		{"QueryAssetsPage", []string{bySize, "9", behindAsset2}, `{"Assets":[` + asset("asset3", "green", 10, "Jin Soo", 500) + "," + asset("asset4", "yellow", 10, "Max", 600) + `],"Bookmark":"` + behindAsset4 + `","Count":2}`, ""},
		{"QueryAssetsPage", []string{bySize, "9", behindAsset4}, `{"Assets":[],"Bookmark":"` + behindAsset4 + `","Count":0}`, ""},
		{"QueryAssetsPage", []string{bySize, "9", "asset2"}, "", "the bookmark is damaged"},
		{"QueryAssetsPage", []string{bySize, "0", ""}, "", `pageSize "0" is not a number from 1 to 1000`},
		{"GetAssetsByRange", []string{"asset2", "asset3", "9", ""}, `{"Assets":[` + asset("asset2", "red", 5, "Brad", 400) + `],"Bookmark":"","Count":1}`, ""},
	} {
		out, err := p.Submit(c.name, c.args...)
		if err != nil {
			t.Fatalf("%s%q: %v", c.name, c.args, err)
		}
		if c.failed != "" {
			if out.Response.Status < 400 || !strings.Contains(out.Response.Message, c.failed) {
				t.Errorf("%s%q: status %d, message %q, want %q", c.name, c.args, out.Response.Status, out.Response.Message, c.failed)
			}
			continue
		}
		if out.Response.Status != 200 || string(out.Response.Payload) != c.want {
			t.Errorf("%s%q: status %d %s, payload\n%s, want\n%s", c.name, c.args, out.Response.Status, out.Response.Message, out.Response.Payload, c.want)
		}
		want := map[string]string{"CreateAsset": "AssetCreated", "TransferAsset": "AssetTransferred", "DeleteAsset": "AssetDeleted"}[c.name]
		if out.Event.GetEventName() != want || want != "" && (out.Event.TxId == "" || out.Event.ChaincodeId != p.Name) {
			t.Errorf("%s%q: event %v, want %q", c.name, c.args, out.Event, want)
		}
	}
	assetHistory(t, p)
	assetsAtOnce(t, p)
}

// assetHistory reads back what happened to car1, the newest first.
func assetHistory(t *testing.T, p *Peer) {
	out, err := p.Evaluate("GetAssetHistory", "car1")
	if err != nil || out.Response.Status != 200 {
		t.Fatal(out, err)
	}
	var history []struct {
		IsDelete  bool
		Record    *struct{ Color, Owner string }
		Timestamp string
		TxID      string `json:"TxId"`
	}
	if err := json.Unmarshal(out.Response.Payload, &history); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range history {
		s := "deleted"
		if h.Record != nil {
			s = h.Record.Color + " " + h.Record.Owner
		}
		got = append(got, s)
		if h.IsDelete != (h.Record == nil) || h.Timestamp != "2026-01-02T03:04:05Z" || len(h.TxID) != 64 {
			t.Errorf("entry %+v", h)
		}
	}
	if want := []string{"deleted", "grün bob <b&b>", "red bob <b&b>", "red ann"}; !slices.Equal(got, want) {
		t.Errorf("history %q, want %q", got, want)
	}
}

// assetsAtOnce creates assets in transactions that run beside each other, more
// than one batch of rows, and reads them all.
func assetsAtOnce(t *testing.T, p *Peer) {
	const transactions, rounds = 50, 5
	var wg sync.WaitGroup
	for i := range transactions {
		wg.Go(func() {
			for j := range rounds {
				id := fmt.Sprintf("many%02d-%d", i, j)
				out, err := p.Submit("CreateAsset", id, "red", "1", "ann", "1")
				if err != nil || out.Response.Status != 200 {
					t.Errorf("%s: %v %v", id, out, err)
				}
			}
		})
	}
	wg.Wait()
	out, err := p.Evaluate("GetAllAssets")
	if err != nil || out.Response.Status != 200 {
		t.Fatal(out, err)
	}
	var all []struct{ ID string }
	if err := json.Unmarshal(out.Response.Payload, &all); err != nil {
		t.Fatal(err)
	}
	ids := make([]string, len(all))
	for i, a := range all {
		ids[i] = a.ID
	}
	if want := transactions*rounds + 6; len(ids) != want || !slices.IsSorted(ids) || ids[want-1] != "many49-4" {
		t.Errorf("%d assets, want %d in order: %q", len(ids), want, ids)
	}
}
