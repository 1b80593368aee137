// Command asset-go is an example chaincode: a register of assets and their
// owners, with the function names of Fabric's asset-transfer samples. It runs as
// a service:
//
//	CHAINCODE_SERVER_ADDRESS=127.0.0.1:9999 CORE_CHAINCODE_ID_NAME=basic_1.0:… asset-go
//
// or, in development, dials the peer at CORE_PEER_ADDRESS: see shim.Start for these
// and for TLS.
package main

import (
	"context"
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
	if err := shim.Start(ctx, Assets{}, shim.Config{Logger: log}, os.Getenv); err != nil {
		log.Error("chaincode ends", "error", err)
		os.Exit(1)
	}
}
