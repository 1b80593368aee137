package acl

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestConditions: Rego decides once, the clock and the counts are asked each time.
func TestConditions(t *testing.T) {
	n := newNetwork(t)
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) // a Monday
	var asked atomic.Int64
	g, _ := n.newGuard(t, map[Layer]string{
		Appliance: layer(Appliance, `allow if input.caller.mspid == "Org1MSP"

conditions contains {"not_after": "2026-11-24T00:00:00Z", "reason": "the mandate ended"} if input.resource == "event/Block"

conditions contains {"rate": {"name": "all", "per": "caller", "calls": 5, "seconds": 3600}}
`),
		Function: layer(Function, `allow if input.function

conditions contains {"open": [{"zone": "UTC", "days": ["mon"], "from": "08:00", "to": "18:00"}], "reason": "payments have hours"} if input.function == "Pay"
`),
	}, func(c *Config) {
		c.Now = func() time.Time { return now }
		c.Observe = func(_, layer string, _ bool, _ time.Duration) {
			if layer == string(Appliance) {
				asked.Add(1)
			}
		}
	})
	pay := Request{Resource: ResourceProposePropose, Chaincode: "cc", Function: "Pay", Caller: n.client}
	read := Request{Resource: ResourceEventBlock, Caller: n.client}
	if d := check(t, g, n.config, pay); !d.Allowed {
		t.Error(d.Reason())
	}
	if d := check(t, g, n.config, read); !d.Allowed {
		t.Error(d.Reason())
	}
	now = now.Add(12 * time.Hour)
	if d := check(t, g, n.config, pay); d.Allowed || d.Layers[len(d.Layers)-1].Layer != Function || !strings.Contains(d.Reason(), "payments have hours (outside of its hours)") {
		t.Errorf("%t %s", d.Allowed, d.Reason())
	}
	now = now.Add(time.Second)
	if d := check(t, g, n.config, read); d.Allowed || !strings.Contains(d.Reason(), "appliance: the mandate ended") {
		t.Errorf("%t %s", d.Allowed, d.Reason())
	}
	if got := asked.Load(); got != 2 {
		t.Errorf("Rego was asked %d times: two decisions were to remember", got)
	}
	now = now.Add(7*24*time.Hour - 12*time.Hour)
	allowed := 0
	for range 10 {
		if check(t, g, n.config, pay).Allowed {
			allowed++
		}
	}
	if allowed != 5 {
		t.Errorf("%d calls of 10 within a rate of 5", allowed)
	}
	// The other's rate is its own, and it is denied by the rules anyway.
	if d := check(t, g, n.config, Request{Resource: ResourceProposePropose, Chaincode: "cc", Function: "Pay", Caller: n.client2}); d.Allowed {
		t.Error("allowed")
	}
}

// TestArguments: a layer may look at arguments; decisions about others are not mixed up.
func TestArguments(t *testing.T) {
	n := newNetwork(t)
	g, _ := n.newGuard(t, map[Layer]string{Function: layer(Function, `allow if input.args[0] == "small"

deny contains "binary" if count(input.binary_args) > 0
`)}, nil)
	for range 2 {
		for _, c := range []struct {
			args  []string
			allow bool
		}{{[]string{"small"}, true}, {[]string{"large"}, false}, {nil, false}, {[]string{"small", "\xff"}, false}, {[]string{"smal", "l"}, false}} {
			r := Request{Resource: ResourceProposePropose, Chaincode: "cc", Function: "Pay", Caller: n.client}
			for _, a := range c.args {
				r.Args = append(r.Args, []byte(a))
			}
			if d := check(t, g, n.config, r); d.Allowed != c.allow {
				t.Errorf("%q: %t %s", c.args, d.Allowed, d.Reason())
			}
		}
	}
	big := Request{Resource: ResourceProposePropose, Chaincode: "cc", Function: "Pay", Caller: n.client, Args: [][]byte{make([]byte, maxArgs+1)}}
	if d := check(t, g, n.config, big); d.Allowed || !strings.Contains(d.Reason(), "too much to judge") {
		t.Errorf("%t %s", d.Allowed, d.Reason())
	}
	plain, _ := n.newGuard(t, map[Layer]string{Function: layer(Function, "allow if input.function\n")}, nil)
	if d := check(t, plain, n.config, big); !d.Allowed {
		t.Errorf("a layer that looks at no arguments: %s", d.Reason())
	}
}

func TestConnect(t *testing.T) {
	n := newNetwork(t)
	g, _ := n.newGuard(t, map[Layer]string{Connection: layer(Connection, `allow if net.cidr_contains("10.0.0.0/8", input.remote.address)

deny contains "no certificate" if {
	input.service == "gateway.Gateway"
	input.method == "Submit"
	input.remote.tls.sha256 == ""
}

deny contains "not one of ours" if {
	input.remote.tls.sha256 != ""
	input.remote.tls.name != "alice"
}

conditions contains {"rate": {"name": "calls", "per": "address", "calls": 3, "seconds": 60}} if input.method == "Evaluate"
`)}, nil)
	for _, c := range []struct {
		method, remote string
		certificate    *x509.Certificate
		allow          bool
	}{
		{"/gateway.Gateway/Submit", "10.1.2.3:4", n.client.Certificate, true},
		{"/gateway.Gateway/Submit", "10.1.2.3:4", nil, false},
		{"/gateway.Gateway/Submit", "10.1.2.3:4", n.admin.Certificate, false},
		{"/gateway.Gateway/Endorse", "10.1.2.3:4", nil, true},
		{"/gateway.Gateway/Endorse", "[::ffff:10.1.2.3]:4", nil, true},
		{"/gateway.Gateway/Endorse", "192.0.2.1:4", nil, false},
		{"/gateway.Gateway/Endorse", "", nil, false},
	} {
		for range 2 {
			d, err := g.Connect(context.Background(), Call{Method: c.method, RemoteAddr: c.remote, Certificate: c.certificate})
			if d.Allowed != c.allow || (err == nil) != c.allow || err != nil && !errors.Is(err, ErrDenied) {
				t.Errorf("%s from %s: %t %v %s", c.method, c.remote, d.Allowed, err, d.Reason())
			}
			if err != nil && (strings.Contains(err.Error(), "ours") || !strings.Contains(err.Error(), d.ID)) {
				t.Errorf("the caller reads %q", err)
			}
		}
	}
	allowed := 0
	for i := range 5 {
		if _, err := g.Connect(context.Background(), Call{Method: "/gateway.Gateway/Evaluate", RemoteAddr: fmt.Sprintf("10.1.2.3:%d", i)}); err == nil {
			allowed++
		}
	}
	if allowed != 3 {
		t.Errorf("%d calls of 5 within a rate of 3", allowed)
	}
	if _, err := g.Connect(context.Background(), Call{Method: "/gateway.Gateway/Evaluate", RemoteAddr: "10.1.2.4:1"}); err != nil {
		t.Errorf("another address: %v", err)
	}
	if g.Layered() {
		t.Error("connection alone asks nothing about requests")
	}
	if d := check(t, g, n.config, Request{Resource: ResourceEventBlock, Caller: n.client2}); !d.Allowed {
		t.Errorf("connection is asked about requests: %s", d.Reason())
	}
	open, _ := n.newGuard(t, nil, nil)
	if _, err := open.Connect(context.Background(), Call{Method: "/any/Any", RemoteAddr: "192.0.2.1:4"}); err != nil {
		t.Errorf("without rules: %v", err)
	}
	per, _ := n.newGuard(t, map[Layer]string{Connection: layer(Connection, `allow if input.service

conditions contains {"rate": {"name": "calls", "per": "caller", "calls": 3, "seconds": 60}}
`)}, nil)
	if d, err := per.Connect(context.Background(), Call{Method: "/any/Any"}); err == nil || !strings.Contains(d.Reason(), "not known yet") {
		t.Errorf("a rate per caller before there is one: %v", err)
	}
}

// TestConnectionInput holds the input against its schema's fields.
func TestConnectionInput(t *testing.T) {
	n := newNetwork(t)
	in := connectionInput(connectionKey{method: "/gateway.Gateway/Submit", host: "10.0.0.1"}, n.client.Certificate)
	var got, schema map[string]any
	if err := errors.Join(json.Unmarshal([]byte(in.String()), &got), json.Unmarshal(ConnectionSchema, &schema)); err != nil {
		t.Fatal(err)
	}
	sameFields(t, "input", got, schema)
	if got["service"] != "gateway.Gateway" || got["method"] != "Submit" || got["remote"].(map[string]any)["tls"].(map[string]any)["name"] != "alice" {
		t.Errorf("%v", got)
	}
}
