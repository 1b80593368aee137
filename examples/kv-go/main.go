// Command kv-go is the smallest useful chaincode: it puts and gets values. It makes
// one request of the peer for each call, so load on it measures the peer. It runs as a
// service:
//
//	CHAINCODE_SERVER_ADDRESS=127.0.0.1:9999 CORE_CHAINCODE_ID_NAME=kv_1.0:… kv-go
//
// See shim.Start for the rest of its environment.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"strongroom/chaincode/shim"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := shim.Start(ctx, store{}, shim.Config{Logger: log}, os.Getenv); err != nil {
		log.Error("chaincode ends", "error", err)
		os.Exit(1)
	}
}

// store is the chaincode. It keeps no state of its own.
type store struct{}

// Init has nothing to do.
func (store) Init(*shim.Stub) shim.Response { return shim.Success(nil) }

// Invoke runs put, of a key and a value, or get, of a key.
func (store) Invoke(stub *shim.Stub) shim.Response {
	name, args := stub.GetFunctionAndParameters()
	switch {
	case name == "put" && len(args) == 2:
		if err := stub.PutState(args[0], []byte(args[1])); err != nil {
			return shim.Error(err.Error())
		}
		return shim.Success(nil)
	case name == "get" && len(args) == 1:
		v, err := stub.GetState(args[0])
		if err != nil {
			return shim.Error(err.Error())
		}
		if v == nil {
			return shim.Error(fmt.Sprintf("no value at %q", args[0]))
		}
		return shim.Success(v)
	}
	return shim.Error("there are: put KEY VALUE, get KEY")
}
