package softhsmtests

import (
	"fmt"
	"slices"
	"testing"
)

// TestDiscoveryClient runs the unmodified DiscoveryService of fabric-common 2.2 against
// the network: what it finds is enough to endorse at both organisations' peers and to
// submit.
func TestDiscoveryClient(t *testing.T) {
	n := start(t)
	steps := node(t, "discovery-client", "scenario.js", n.gateway)
	found := decode[struct {
		MSPs, Orderers []string
		Peers          []struct {
			MSP, Endpoint string
			Height        int
			Chaincodes    []string
		}
		Layouts, Groups int
	}](t, steps, "found")
	if !slices.Equal(found.MSPs, []string{"OrdererMSP", "Org1MSP", "Org2MSP"}) || len(found.Orderers) != 1 {
		t.Errorf("configuration: MSPs %v, orderers %v", found.MSPs, found.Orderers)
	}
	var orgs []string
	for _, p := range found.Peers {
		orgs = append(orgs, p.MSP)
		if p.Height < 2 || p.Endpoint == "" || !slices.Equal(p.Chaincodes, []string{"asset 1.0"}) {
			t.Errorf("peer %+v", p)
		}
	}
	slices.Sort(orgs)
	if !slices.Equal(orgs, []string{"Org1MSP", "Org2MSP"}) || found.Layouts != 1 || found.Groups != 2 {
		t.Errorf("peers of %v, %d layouts, %d groups", orgs, found.Layouts, found.Groups)
	}
	endorsed := decode[struct {
		By, Messages, Errors []string
		Statuses             []int
	}](t, steps, "endorsed")
	if len(endorsed.By) != 2 || fmt.Sprint(endorsed.Statuses) != "[200 200]" || len(endorsed.Errors) != 0 {
		t.Errorf("endorsed: %+v", endorsed)
	}
	if ordered := decode[struct{ Status string }](t, steps, "ordered"); ordered.Status != "SUCCESS" {
		t.Errorf("ordered: %+v", ordered)
	}
	if refused := decode[struct{ Message string }](t, steps, "refused"); refused.Message != "DiscoveryService: discovery error: access denied" {
		t.Errorf("refused: %q", refused.Message)
	}
}
