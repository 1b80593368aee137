package main

import (
	"strings"
	"testing"

	"strongroom/chaincode"
	"strongroom/chaincode/chaincodetest"
)

func TestContract(t *testing.T) {
	chaincodetest.AssetContract(t, chaincodetest.Start(t, Assets{}, chaincode.Config{}))
}

func TestArgumentCount(t *testing.T) {
	p := chaincodetest.Start(t, Assets{}, chaincode.Config{})
	out, err := p.Evaluate("ReadAsset")
	if err != nil || !strings.Contains(out.Response.Message, "ReadAsset takes 1 arguments (id) but got 0") {
		t.Errorf("%v %v", out, err)
	}
}
