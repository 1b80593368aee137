// Command strongroom is the appliance and its operator's command line: it runs a
// peer or an ordering node, provisions tokens and identities, and asks a running
// peer on an operator's behalf.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "strongroom:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "strongroom",
		Short: "A Hyperledger Fabric peer that signs and verifies in an HSM",
		Long: `Strongroom is a Hyperledger Fabric peer, hardened as an appliance: every signature
is made and checked in a PKCS#11 HSM, every access and endorsement is decided by
Open Policy Agent, everything that chaincode writes is sealed before it reaches
the disk, and each block's provenance is signed for auditors.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.PersistentFlags().String("output", "text", "how to print results: text or json")
	cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		switch out, _ := cmd.Flags().GetString("output"); out {
		case "text", "json":
			return nil
		default:
			return fmt.Errorf("--output is %q: use text or json", out)
		}
	}
	cmd.AddCommand(
		tokenCommand(), caCommand(), identityCommand(),
		channelCommand(), chaincodeCommand(), ledgerCommand(), auditCommand(),
		peerCommand(), ordererCommand(), devCommand(), policyCommand(), versionCommand(),
	)
	return cmd
}
