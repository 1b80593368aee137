# Strongroom. `make quickstart` and `make test` are the two that a fresh machine needs.

GO      ?= go
BIN     := bin
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X strongroom/appliance/version.Version=$(VERSION)
export CGO_ENABLED = 1

.PHONY: setup setup-test build quickstart test race bench fuzz lint generate release clean

setup: ## install what building and running needs
	@scripts/setup

setup-test: ## install what testing needs
	@scripts/setup test

build: setup ## build the binaries into bin/
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/strongroom ./examples/asset-go ./examples/kv-go
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/strongroom-audit ./cmd/strongroom-load

quickstart: build ## a network, real transactions, sealed bytes, verified provenance
	@examples/quickstart.sh

test: setup-test build ## all tests
	$(GO) test -timeout 20m ./...

race: setup-test ## the tests of concurrent code under the race detector
	$(GO) test -race -timeout 30m ./bccsp/... ./msp/... ./policy/... ./acl/... ./channel/... ./chaincode/... ./ordering/... ./ledger/... ./appliance/...

bench: setup-test ## the figures of docs/performance.md
	$(GO) test -run '^$$' -bench . -benchtime 2s ./bccsp/... ./policy ./acl ./ledger/... ./channel ./chaincode ./ordering

FUZZTIME ?= 10s
fuzz: setup-test ## each fuzz target for FUZZTIME
	@scripts/fuzz $(FUZZTIME)

lint: setup-test ## formatting, vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$'))" || { gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$'); echo 'lint: run gofmt -w on these'; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

generate: ## generated code, reproducibly
	$(GO) generate ./...

release: ## the auditor's tool as a reproducible static binary, with digests, in dist/
	@scripts/release dist

clean: ## what was built or run here
	-@test ! -x $(BIN)/strongroom || $(BIN)/strongroom dev down --dir dev 2>/dev/null
	rm -rf $(BIN) dev dist
