package ordering

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"strongroom/bccsp/bccsptest"
	"strongroom/bccsp/pkcs11"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

// childEnv makes the test binary an ordering node: the value is a childConfig.
const childEnv = "STRONGROOM_ORDERING_TEST_NODE"

type childConfig struct {
	Module, TokenLabel, PINFile, KeyLabel string
	Cert                                  []byte
	Dir, Genesis                          string
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		if err := runNode(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runNode is the ordering node that gets killed. It prints its address and serves
// until then.
func runNode(text string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	ctx := context.Background()
	token, err := pkcs11.Open(ctx, pkcs11.Config{Module: c.Module, TokenLabel: c.TokenLabel, PIN: pkcs11.PINSource{File: c.PINFile}})
	if err != nil {
		return err
	}
	signer, err := token.Signer(ctx, c.KeyLabel)
	if err != nil {
		return err
	}
	id, err := msp.LoadLocalIdentity("OrdererMSP", c.Cert, signer)
	if err != nil {
		return err
	}
	e, err := policy.NewEngine(policy.Config{})
	if err != nil {
		return err
	}
	s, err := New(ctx, Config{Dir: c.Dir, Identity: id, Deps: configtx.Deps{Verifier: token, Engine: e}, Sealer: NoSealing})
	if err != nil {
		return err
	}
	if len(s.Channels()) == 0 {
		raw, err := os.ReadFile(c.Genesis)
		if err != nil {
			return err
		}
		genesis := new(commonpb.Block)
		if err := proto.Unmarshal(raw, genesis); err != nil {
			return err
		}
		if err := s.Join(ctx, genesis); err != nil {
			return err
		}
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	g := grpc.NewServer()
	ordererpb.RegisterAtomicBroadcastServer(g, s)
	fmt.Println(lis.Addr())
	return g.Serve(lis)
}

// node is a running child.
type node struct {
	cmd  *exec.Cmd
	addr string
}

func startNode(t *testing.T, c childConfig) *node {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	stderr := new(strings.Builder)
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // has an effect only where a test failed
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = cmd.Wait()
		t.Fatalf("node does not start: %v: %s", err, stderr)
	}
	return &node{cmd: cmd, addr: strings.TrimSpace(line)}
}

// kill is kill -9.
func (n *node) kill(t *testing.T) {
	t.Helper()
	if err := n.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := n.cmd.Wait(); !errors.As(err, &exit) {
		t.Fatalf("node ended by itself: %v", err)
	}
}

// TestKill kills an ordering node again and again in the middle of a stream of
// envelopes: each acknowledged one is in the channel, once.
func TestKill(t *testing.T) {
	const (
		kills   = 6
		streams = 4
		acks    = 60 // before each kill
	)
	cfg := bccsptest.Config(t)
	n := newNetwork(t, bccsptest.OpenWith(t, cfg))
	dir := t.TempDir()
	c := childConfig{
		Module: cfg.Module, TokenLabel: cfg.TokenLabel, PINFile: cfg.PIN.File,
		KeyLabel: n.orderer.Label, Cert: n.orderer.CertPEM,
		Dir: filepath.Join(dir, "orderer"), Genesis: filepath.Join(dir, "genesis.block"),
	}
	if err := os.WriteFile(c.Genesis, marshal(t, n.genesis(t, "main", func(d *configtx.Description) {
		d.Orderer.BatchSize.MaxMessageCount = 7
	})), 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex // guards acked and sent
	acked, sent := make(map[string]bool), 0
	for range kills {
		node := startNode(t, c)
		cc, err := grpc.NewClient(node.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		enough := make(chan struct{})
		for range streams {
			wg.Go(func() {
				stream, err := ordererpb.NewAtomicBroadcastClient(cc).Broadcast(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				waiting := make(chan string, 16)
				wg.Go(func() {
					for name := range waiting {
						resp, err := stream.Recv()
						if err != nil {
							continue // killed: not acknowledged
						}
						if resp.Status != commonpb.Status_SUCCESS {
							t.Errorf("answer is %s %q", resp.Status, resp.Info)
						}
						mu.Lock()
						acked[name] = true
						if len(acked)%acks == 0 {
							select {
							case enough <- struct{}{}:
							default:
							}
						}
						mu.Unlock()
					}
				})
				defer close(waiting)
				for {
					mu.Lock()
					sent++
					name := fmt.Sprintf("tx-%d", sent)
					mu.Unlock()
					if stream.Send(n.tx(t, "main", name)) != nil {
						return
					}
					waiting <- name
				}
			})
		}
		<-enough
		node.kill(t)
		wg.Wait()
		_ = cc.Close()
	}

	s := start(t, Config{Dir: c.Dir, Identity: local(t, n.orderer), Deps: n.deps, Sealer: NoSealing})
	client := dial(t, serve(t, s, nil))
	// What is left in the cutter comes out with as many more as one batch.
	for i := range 7 {
		order(t, client, n.tx(t, "main", fmt.Sprintf("last-%d", i)))
	}
	var blocks []*commonpb.Block
	seen := make(map[string]int)
	for number := uint64(0); seen["last-0"] == 0; number++ {
		b := n.blocks(t, client, "main", number, number)[0]
		blocks = append(blocks, b)
		if number > 0 {
			for _, name := range contents(t, b) {
				seen[name]++
			}
		}
	}
	n.verifyChain(t, blocks)
	for name := range acked {
		if seen[name] != 1 {
			t.Errorf("%s was acknowledged and is in the channel %d times", name, seen[name])
		}
	}
	for name, times := range seen {
		if times != 1 {
			t.Errorf("%s is in the channel %d times", name, times)
		}
	}
	t.Logf("%d envelopes sent, %d acknowledged, %d blocks, %d kills", sent, len(acked), len(blocks), kills)
}

// TestRestartGoesOn closes a service with acknowledged envelopes in no block and
// checks that the next one cuts them, in order, and not again those in blocks.
func TestRestartGoesOn(t *testing.T) {
	n := sharedNetwork(t)
	cfg := n.config(t, t.TempDir())
	s := start(t, cfg)
	join(t, s, n.genesis(t, "main", nil))
	c := dial(t, serve(t, s, nil))
	want := names("tx", 5) // one block of three, and two that wait
	for _, name := range want {
		order(t, c, n.tx(t, "main", name))
	}
	for range 3 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = start(t, cfg)
		c = dial(t, serve(t, s, nil))
	}
	order(t, c, n.tx(t, "main", "last"))
	blocks := n.blocks(t, c, "main", 0, 2)
	n.verifyChain(t, blocks)
	got := append(contents(t, blocks[1]), contents(t, blocks[2])...)
	if fmt.Sprint(got) != fmt.Sprint(append(want, "last")) {
		t.Errorf("channel holds %q", got)
	}
}

// TestLogsOfDifferentTimes mixes logs of two moments, as a careless restore does.
func TestLogsOfDifferentTimes(t *testing.T) {
	n := sharedNetwork(t)
	cfg := n.config(t, t.TempDir())
	s := start(t, cfg)
	join(t, s, n.genesis(t, "main", nil))
	c := dial(t, serve(t, s, nil))
	order(t, c, n.tx(t, "main", "a"), n.tx(t, "main", "b"), n.tx(t, "main", "c"), n.tx(t, "main", "d"))
	n.blocks(t, c, "main", 1, 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	pending := filepath.Join(cfg.Dir, "main", pendingDir)
	old := filepath.Join(t.TempDir(), "old")
	if err := os.CopyFS(old, os.DirFS(pending)); err != nil {
		t.Fatal(err)
	}
	s = start(t, cfg)
	c = dial(t, serve(t, s, nil))
	order(t, c, n.tx(t, "main", "e"), n.tx(t, "main", "f"))
	n.blocks(t, c, "main", 2, 2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(pending); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(pending, os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "from another time") {
		t.Errorf("an old pending log gives %v", err)
	}
}
