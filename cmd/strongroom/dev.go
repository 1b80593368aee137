package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"strongroom/cmd/strongroom/devnet"
)

func devCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "dev", Short: "Run a development network on this machine"}
	cmd.PersistentFlags().String("dir", "dev", "`FOLDER` of the network")
	cmd.AddCommand(devUpCommand(), devDownCommand(), devStatusCommand())
	return cmd
}

func devUpCommand() *cobra.Command {
	var chaincode string
	var port int
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Build the network if there is none, start what does not run",
		Long: `Makes SoftHSM tokens, certification authorities whose keys live in them, two
organisations with a peer each, an ordering node and TLS everywhere; joins channel
main and commits the example chaincode under the policy "both organisations". The
network keeps running. gateway-org1.json and gateway-org2.json in its folder tell a
Fabric Gateway client how to connect.`,
		Example: "  strongroom dev up --dir dev",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			if chaincode == "" {
				chaincode = filepath.Join(filepath.Dir(self), "asset-go")
			}
			if chaincode, err = filepath.Abs(chaincode); err != nil { // it runs in a folder of its own
				return err
			}
			if _, err := os.Stat(chaincode); err != nil {
				return fmt.Errorf("the example chaincode is not built: run `make build`, or name its binary with --chaincode: %w", err)
			}
			dir, _ := cmd.Flags().GetString("dir")
			n, err := devnet.Up(cmd.Context(), devnet.Config{
				Dir: dir, Binary: self, Chaincode: chaincode, BasePort: port, Progress: cmd.ErrOrStderr(),
			})
			if err != nil {
				return err
			}
			return showNetwork(cmd, n)
		},
	}
	cmd.Flags().StringVar(&chaincode, "chaincode", "", "the example chaincode's `BINARY` (default: asset-go beside this one)")
	cmd.Flags().IntVar(&port, "base-port", 7050, "first of seven ports on 127.0.0.1; 0 takes free ones")
	return cmd
}

func devDownCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "down",
		Short:   "Stop the network; its data stays for the next `dev up`",
		Example: "  strongroom dev down --dir dev",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, _ := cmd.Flags().GetString("dir")
			n, err := loadNetwork(dir)
			if err != nil {
				return err
			}
			return n.Down(cmd.Context())
		},
	}
}

func devStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Say which of the network's processes run and are healthy",
		Example: "  strongroom dev status --dir dev",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, _ := cmd.Flags().GetString("dir")
			n, err := loadNetwork(dir)
			if err != nil {
				return err
			}
			return showNetwork(cmd, n)
		},
	}
}

func loadNetwork(dir string) (*devnet.Network, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	return devnet.Load(abs)
}

type processStatus struct {
	Name   string `json:"name"`
	PID    int    `json:"pid"`
	Status string `json:"status"`
	Log    string `json:"log"`
}

func showNetwork(cmd *cobra.Command, n *devnet.Network) error {
	var list []processStatus
	down := 0
	for _, p := range n.Processes {
		s := processStatus{Name: p.Name, PID: p.PID, Status: "stopped", Log: p.Log}
		if p.Running() {
			s.Status = "ready"
			if err := p.Ready(cmd.Context()); err != nil {
				s.Status = err.Error()
			}
		}
		if s.Status != "ready" {
			down++
		}
		list = append(list, s)
	}
	err := show(cmd, list, func(w io.Writer) {
		fmt.Fprintln(w, "PROCESS\tPID\tSTATUS\tLOG")
		for _, s := range list {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", s.Name, s.PID, s.Status, s.Log)
		}
	})
	if err == nil && down > 0 {
		err = errors.New("not all processes are ready: see their logs, or run `strongroom dev up`")
	}
	return err
}
