package main

import (
	"testing"

	"strongroom/chaincode"
	"strongroom/chaincode/chaincodetest"
)

func TestStore(t *testing.T) {
	p := chaincodetest.Start(t, store{}, chaincode.Config{})
	if out, err := p.Submit("put", "k", "v"); err != nil || out.Response.Status != 200 {
		t.Fatalf("put: %v %v", out, err)
	}
	if out, err := p.Evaluate("get", "k"); err != nil || string(out.Response.Payload) != "v" {
		t.Errorf("get: %v %v", out, err)
	}
	for _, call := range [][]string{{"get", "none"}, {"get"}, {"put", "k"}, {"other"}} {
		if out, err := p.Evaluate(call[0], call[1:]...); err != nil || out.Response.Status < 400 {
			t.Errorf("%v: %v %v", call, out, err)
		}
	}
}
