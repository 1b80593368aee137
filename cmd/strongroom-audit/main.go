// Command strongroom-audit is the auditor's tool: it verifies what a peer exported,
// offline, without an HSM, a network or any configuration, and without trusting the
// peer that made it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"

	"strongroom/appliance/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "strongroom-audit:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "strongroom-audit",
		Short:         "Verify what a Strongroom peer exported, without trusting it",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(verifyCommand(), decisionsCommand(), txCommand(), keyCommand(), identityCommand(), policyCommand(), diffCommand(), ceremonyCommand(), &cobra.Command{
		Use:   "version",
		Short: "Print this build's version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version.Read().Version) },
	})
	return cmd
}
