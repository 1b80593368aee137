package devnet

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"
)

// endorsement is the example chaincode's policy: both organisations.
const endorsement = "AND('Org1MSP.peer','Org2MSP.peer')"

// bootstrap starts the nodes, joins the channel, and agrees on the chaincode.
func (n *Network) bootstrap(ctx context.Context) error {
	if err := n.startAll(ctx); err != nil {
		return err
	}
	peers := organizations[1:]
	n.say("joining channel %s", Channel)
	for _, org := range peers {
		if _, err := n.admin(ctx, org, "channel", "join", "--genesis", n.path("main.block")); err != nil {
			return err
		}
	}
	n.say("installing chaincode %s", Chaincode)
	archive := n.path(Chaincode + ".tar.gz")
	if _, err := n.run(ctx, "chaincode", "package", "--label", Chaincode+"_1.0",
		"--address", fmt.Sprintf("127.0.0.1:%d", n.Ports.Chaincode), "--out", archive); err != nil {
		return err
	}
	for _, org := range peers {
		id, err := n.admin(ctx, org, "chaincode", "install", archive)
		if err != nil {
			return err
		}
		n.PackageID = id
	}
	address := fmt.Sprintf("127.0.0.1:%d", n.Ports.Chaincode)
	n.Processes = append(n.Processes, &Process{
		Name: "chaincode." + Chaincode,
		Args: []string{n.cfg.Chaincode},
		Env:  []string{"CHAINCODE_SERVER_ADDRESS=" + address, "CORE_CHAINCODE_ID_NAME=" + n.PackageID},
		Log:  n.path("logs", filepath.Base(n.cfg.Chaincode)+".log"),
		Dial: address,
	})
	if err := n.startAll(ctx); err != nil {
		return err
	}
	n.say("approving and committing its definition: %s", endorsement)
	definition := []string{"--channel", Channel, "--name", Chaincode, "--version", "1.0", "--sequence", "1", "--endorsement", endorsement}
	for _, org := range peers {
		if _, err := n.admin(ctx, org, append([]string{"chaincode", "approve", "--package-id", n.PackageID}, definition...)...); err != nil {
			return err
		}
	}
	if err := n.level(ctx, peers); err != nil {
		return err
	}
	if _, err := n.admin(ctx, peers[0], append([]string{"chaincode", "commit", "--organizations", "Org1MSP,Org2MSP"}, definition...)...); err != nil {
		return err
	}
	if err := n.level(ctx, peers); err != nil {
		return err
	}
	n.Ready = true
	return n.save()
}

// level waits until all peers have the same blocks: an approval counts when the peer of
// its organisation has it, and endorsements of peers that lag differ.
func (n *Network) level(ctx context.Context, peers []organization) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		heights := map[uint64]bool{}
		for _, org := range peers {
			out, err := n.admin(ctx, org, "ledger", "info", Channel, "--output", "json")
			if err != nil {
				return err
			}
			var info struct{ Height uint64 }
			if err := json.Unmarshal([]byte(out), &info); err != nil {
				return fmt.Errorf("ledger info of %s: %w", org.name, err)
			}
			heights[info.Height] = true
		}
		if len(heights) == 1 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the peers of %s do not come to one height: %w", Channel, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// admin runs a command as an organisation's administrator against its own peer.
func (n *Network) admin(ctx context.Context, org organization, args ...string) (string, error) {
	return n.run(ctx, append(args, "--config", n.path(org.name, "admin.yaml"))...)
}
