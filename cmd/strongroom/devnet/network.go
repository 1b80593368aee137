// Package devnet builds and runs a development network on one machine: two
// organisations with a peer each, an ordering node, a channel and a chaincode, all
// keys in SoftHSM tokens.
//
// It does everything through the strongroom binary's own commands, the same ones
// that an operator types, and so touches no token itself.
package devnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
)

// Names of the network, the same in each.
const (
	Channel   = "main"
	Chaincode = "asset"
)

// Config says where and how to build a network.
type Config struct {
	Dir       string // everything is in here
	Binary    string // the strongroom binary
	Chaincode string // the example chaincode's binary
	BasePort  int    // first of the ports on 127.0.0.1; 0 takes free ones
	Progress  io.Writer
}

// Network is a development network's description: D/network.json.
type Network struct {
	Dir       string     `json:"-"`
	Channel   string     `json:"channel"`
	Chaincode string     `json:"chaincode"`
	PackageID string     `json:"packageId"`
	Processes []*Process `json:"processes"`
	Ports     ports      `json:"ports"`
	Ready     bool       `json:"ready"` // the chaincode is committed

	cfg Config
}

type ports struct {
	Orderer    int    `json:"orderer"`
	OrdererOps int    `json:"ordererOperations"`
	Peer       [2]int `json:"peer"`
	PeerOps    [2]int `json:"peerOperations"`
	Chaincode  int    `json:"chaincode"`
}

// Process is one of the network's running programs.
type Process struct {
	Name   string   `json:"name"`
	PID    int      `json:"pid"`
	Args   []string `json:"args"`
	Env    []string `json:"env,omitempty"`
	Log    string   `json:"log"`
	Health string   `json:"health,omitempty"` // URL
	Dial   string   `json:"dial,omitempty"`   // address that answers once it is up
}

// ErrNone is the error for a folder that holds no network.
var ErrNone = errors.New("no development network in this folder: run `strongroom dev up`")

// Load reads a network's description.
func Load(dir string) (*Network, error) {
	data, err := os.ReadFile(filepath.Join(dir, "network.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNone)
	}
	if err != nil {
		return nil, err
	}
	n := &Network{Dir: dir}
	if err := json.Unmarshal(data, n); err != nil {
		return nil, fmt.Errorf("%s: %w: remove the folder and run `strongroom dev up` again", filepath.Join(dir, "network.json"), err)
	}
	return n, nil
}

func (n *Network) save() error {
	data, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(n.path("network.json"), append(data, '\n'), 0o644)
}

// Up builds the network if the folder holds none, starts what does not run, and
// returns when a Gateway client can use it.
func Up(ctx context.Context, cfg Config) (*Network, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	n, err := Load(dir)
	switch {
	case errors.Is(err, ErrNone):
		if n, err = create(ctx, cfg, dir); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	n.cfg = cfg
	if !n.Ready {
		return n, n.bootstrap(ctx)
	}
	return n, n.startAll(ctx)
}

func create(ctx context.Context, cfg Config, dir string) (*Network, error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("%s is not empty and holds no network: choose another folder or empty it", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	n := &Network{Dir: dir, Channel: Channel, Chaincode: Chaincode, cfg: cfg}
	if err := n.choosePorts(cfg.BasePort); err != nil {
		return nil, err
	}
	if err := n.provision(ctx); err != nil {
		return nil, errors.Join(err, fmt.Errorf("the network is not complete: remove %s before you try again", dir))
	}
	return n, n.save()
}

func (n *Network) choosePorts(base int) error {
	targets := []*int{
		&n.Ports.Orderer, &n.Ports.Peer[0], &n.Ports.Peer[1], &n.Ports.Chaincode,
		&n.Ports.OrdererOps, &n.Ports.PeerOps[0], &n.Ports.PeerOps[1],
	}
	var held []net.Listener
	defer func() {
		for _, l := range held {
			l.Close()
		}
	}()
	for i, target := range targets {
		port := 0
		if base != 0 {
			port = base + i
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return fmt.Errorf("port %d is taken: choose another --base-port, or 0 for free ones: %w", port, err)
		}
		held = append(held, l)
		*target = l.Addr().(*net.TCPAddr).Port
	}
	return nil
}

func (n *Network) path(parts ...string) string {
	return filepath.Join(append([]string{n.Dir}, parts...)...)
}

func (n *Network) say(format string, args ...any) {
	if n.cfg.Progress != nil {
		fmt.Fprintf(n.cfg.Progress, format+"\n", args...)
	}
}
