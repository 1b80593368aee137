// Command strongroom-load puts load on a Fabric-compatible peer and measures it:
// through the Endorser service or the Gateway service, as any client does, so that
// the same tool measures Strongroom and Hyperledger Fabric. It talks only to the
// peer that its connection file names.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "strongroom-load:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	var p plan
	w := &work{}
	var connections int
	var followed bool
	var output, html, write, read, conflict string
	cmd := &cobra.Command{
		Use:   "strongroom-load CONNECTION-FILE WORK",
		Short: "Put load on a Fabric-compatible peer and measure it",
		Long: `WORK is one of
  endorse    the peer's Endorser service simulates and endorses a write; it is not submitted
  evaluate   the peer's Gateway service runs a query
  submit     endorse, submit and await the commit, through the Gateway service
  mixed      evaluate and submit, as --reads says

CONNECTION-FILE is JSON: endpoint, tlsCACert, serverName, mspId, clientCert, clientKey,
channel, chaincode; "strongroom dev up" writes gateway-org1.json. The user's key is read
from that file: this is a client, and no node's key belongs into it.

What is called is given by --write, --read and --conflict-write: the function and its
arguments with commas between, {key} and {value} replaced. The defaults fit the example
chaincode asset. Reads and conflicting writes use --keys keys, which are written first.

A submission is in flight until its commit was asked for and told; with --follow until
it is ordered, and commits are counted as the peer's stream of filtered blocks tells of
them: then the time in which blocks are cut does not bound the rate.

With --rate, latency counts from when work was due, not from when it could be sent.
Everything is bounded: by --duration and by --count.`,
		Example: `  strongroom-load dev/gateway-org1.json endorse --in-flight 1
  strongroom-load dev/gateway-org1.json submit --in-flight 64 --duration 30s --html submit.html
  strongroom-load dev/gateway-org1.json mixed --reads 80 --rate 200 --ramp 10s --duration 4h`,
		Args:          cobra.ExactArgs(2),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output is %q: use text or json", output)
			}
			if connections < 1 || connections > 1000 {
				return fmt.Errorf("--connections is %d: give 1 to 1000", connections)
			}
			w.kind, w.write, w.read, w.conflict = kind(args[1]), strings.Split(write, ","), strings.Split(read, ","), strings.Split(conflict, ",")
			if err := p.validate(); err != nil {
				return err
			}
			if w, err = newWork(w); err != nil {
				return err
			}
			report, err := measure(cmd, args[0], connections, followed, w, p)
			if err != nil {
				return err
			}
			if html != "" {
				if err := writePage(html, report); err != nil {
					return err
				}
			}
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(report)
			}
			return report.text(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&p.inFlight, "in-flight", 1, "pieces of work at a time")
	f.Float64Var(&p.rate, "rate", 0, "pieces of work a second; 0 is as fast as they are answered")
	f.DurationVar(&p.ramp, "ramp", 0, "time until --in-flight, or --rate, is reached; not counted")
	f.DurationVar(&p.warmUp, "warm-up", 2*time.Second, "time before counting begins")
	f.DurationVar(&p.duration, "duration", 10*time.Second, "time that is counted, at most 24h")
	f.Uint64Var(&p.count, "count", 10_000_000, "pieces of work at most, warm-up included")
	f.DurationVar(&p.interval, "interval", time.Second, "between lines of progress, and points of the time series")
	f.DurationVar(&p.timeout, "timeout", 30*time.Second, "of one piece of work")
	f.BoolVar(&followed, "follow", false, "a submission is in flight until it is ordered; commits are counted from the peer's stream of blocks")
	f.IntVar(&connections, "connections", 4, "connections to the peer")
	f.StringVar(&write, "write", "CreateAsset,{key},blue,5,{value},100", "function and arguments of a write to a new key")
	f.StringVar(&read, "read", "ReadAsset,{key}", "function and arguments of a query")
	f.StringVar(&conflict, "conflict-write", "TransferAsset,{key},{value}", "function and arguments of a write to a key that exists")
	f.IntVar(&w.reads, "reads", 50, "of a hundred pieces of mixed work, how many are queries")
	f.IntVar(&w.conflicts, "conflicts", 0, "of a hundred writes, how many go to the hot keys")
	f.IntVar(&w.hot, "hot-keys", 1, "keys that conflicting writes share")
	f.IntVar(&w.keys, "keys", 100, "keys that are written before reads and conflicting writes begin")
	f.IntVar(&w.keySize, "key-size", minKey, "bytes of a key")
	f.IntVar(&w.valueSize, "value-size", 178, "bytes of {value}")
	f.StringVar(&output, "output", "text", "how to print the result: text or json")
	f.StringVar(&html, "html", "", "`FILE` for a page with plots")
	return cmd
}

// measure prepares and does the work.
func measure(cmd *cobra.Command, file string, connections int, followed bool, w *work, p plan) (_ *Report, err error) {
	t, err := loadTarget(file)
	if err != nil {
		return nil, err
	}
	u, err := t.user()
	if err != nil {
		return nil, err
	}
	conns, err := t.dial(connections)
	if err != nil {
		return nil, err
	}
	var clients []*client
	for _, conn := range conns {
		defer func() { err = errors.Join(err, conn.Close()) }()
		clients = append(clients, newClient(t, u, conn))
	}
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	before := machineLoad()
	var commits *follower
	if followed && (w.kind == submitKind || w.kind == mixedKind) {
		if commits, err = follow(ctx, t, u, conns[0], cancel); err != nil {
			return nil, err
		}
		for _, c := range clients {
			c.follower = commits
		}
	}
	if w.kind == evaluateKind || w.kind == mixedKind || w.conflicts > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "writing %d keys first\n", w.keys)
		if err := prepare(ctx, w, clients, p); err != nil {
			return nil, err
		}
	}
	r := &runner{plan: p, draw: w.draw,
		do: func(ctx context.Context, c call, worker int, done func(outcome, laps)) error {
			to, do := clients[worker%len(clients)], (*client).endorse
			switch c.kind {
			case submitKind:
				return to.submit(ctx, c.args, done)
			case evaluateKind:
				do = (*client).evaluate
			}
			o, err := do(to, ctx, c.args)
			if err == nil {
				done(o, laps{})
			}
			return err
		},
		tell: func(pt Point) {
			fmt.Fprintf(cmd.ErrOrStderr(), "%6.1f s  %8.1f/s  p50 %8.3f ms  p99 %8.3f ms  failed %d\n", pt.Seconds, pt.Rate, pt.P50, pt.P99, pt.Failed)
		},
	}
	counted, err := r.run(ctx)
	if err != nil {
		return nil, err
	}
	report := newReport(t, w, r, counted)
	if commits != nil {
		report.Followed, report.Uncommitted = true, commits.wait(ctx, p.timeout)
	}
	report.LoadBefore = before
	return report, nil
}

func writePage(file string, report *Report) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(report.html(out), out.Close())
}
