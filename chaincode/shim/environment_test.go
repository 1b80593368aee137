package shim

import (
	"context"
	"strings"
	"testing"
)

// What is wrong in the environment is said by the variable's name.
func TestEnvironment(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{nil, "CHAINCODE_SERVER_ADDRESS is not set"},
		{map[string]string{"CHAINCODE_SERVER_ADDRESS": "127.0.0.1:0"}, "CORE_CHAINCODE_ID_NAME"},
		{map[string]string{"CHAINCODE_SERVER_ADDRESS": "nowhere", "CHAINCODE_ID": "a:b"}, "is not host:port"},
		{map[string]string{"CHAINCODE_SERVER_ADDRESS": "127.0.0.1:0", "CHAINCODE_ID": "a:b", "CHAINCODE_TLS_KEY": "k"}, "belong together"},
		{map[string]string{"CHAINCODE_SERVER_ADDRESS": "127.0.0.1:0", "CHAINCODE_ID": "a:b", "CHAINCODE_TLS_KEY": "k", "CHAINCODE_TLS_CERT": "c"}, "CHAINCODE_TLS_CERT"},
		{map[string]string{"CHAINCODE_SERVER_ADDRESS": "127.0.0.1:0", "CHAINCODE_ID": "a:b", "CHAINCODE_CLIENT_CA_CERT": "nowhere.pem"}, "CHAINCODE_CLIENT_CA_CERT"},
		{map[string]string{"CORE_PEER_ADDRESS": "127.0.0.1:1", "CHAINCODE_ID": "a:b", "CORE_PEER_TLS_ROOTCERT_FILE": "environment.go"}, "holds no PEM certificate"},
		{map[string]string{"CORE_PEER_ADDRESS": "127.0.0.1:1", "CHAINCODE_ID": "a:b"}, "connection refused"},
	} {
		err := Start(t.Context(), nil, Config{}, func(k string) string { return c.env[k] })
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.env, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	good := map[string]string{"CHAINCODE_SERVER_ADDRESS": "127.0.0.1:0", "CHAINCODE_ID": "a:b"}
	if err := Start(ctx, nil, Config{}, func(k string) string { return good[k] }); err != nil {
		t.Error(err)
	}
}
