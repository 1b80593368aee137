package ledger_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/bccsp/bccsptest"
	"strongroom/ledger"
	"strongroom/ledger/ledgertest"
	"strongroom/ledger/seal"
	"strongroom/ledger/seal/sealtest"
	"strongroom/wire/peerpb"
)

// findInFiles returns the files under a folder that hold some bytes.
func findInFiles(t *testing.T, dir string, what []byte) []string {
	t.Helper()
	var found []string
	files := 0
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files++
		if bytes.Contains(raw, what) {
			found = append(found, name)
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Fatalf("%d files: %v", files, err)
	}
	return found
}

// Nothing that was written is readable on the disk: not in the block log, not in a
// store or its journal, not what waits for a commit. The keys come from a token.
func TestNothingInClear(t *testing.T) {
	dir := t.TempDir()
	keyring, err := seal.OpenKeyring(context.Background(), filepath.Join(dir, "keys"), bccsptest.Open(t))
	ok(t, err)
	defer keyring.Close()
	l, err := ledger.Open(context.Background(), ledger.Config{Dir: filepath.Join(dir, "ledger"), ChannelID: channelID, Keyring: keyring})
	ok(t, err)
	canary := func(what string) []byte { return []byte("CANARY-" + what + "-c0ffee-52b1") }
	run(t, l, func(s *ledger.Simulator) {
		ok(t, s.Put("kv", "a-key-of-the-state", canary("value")))
		ok(t, s.SetMetadata("kv", "a-key-of-the-state", map[string][]byte{"VALIDATION_PARAMETER": canary("metadata")}))
		ok(t, s.PutPrivate("kv", collection, "a-private-key", canary("private")))
	})
	s := simulate(t, l)
	ok(t, s.PutPrivate("kv", collection, "k", canary("waiting")))
	_, pvt, err := s.Results()
	ok(t, err)
	ok(t, l.KeepPrivate("id of no transaction", pvt))
	check := func(when string) {
		t.Helper()
		for _, what := range []string{"value", "metadata", "private", "waiting"} {
			for _, c := range [][]byte{canary(what), canary(what)[7:], []byte(hex.EncodeToString(canary(what)))} {
				if found := findInFiles(t, dir, c); len(found) > 0 {
					t.Errorf("%s: %q is in clear in %q", when, c, found)
				}
			}
		}
		for _, c := range []string{"a-key-of-the-state", "a-private-key", "id of no transaction"} {
			if found := findInFiles(t, dir, []byte(c)); len(found) > 0 {
				t.Errorf("%s: %q is in clear in %q", when, c, found)
			}
		}
		if len(findInFiles(t, dir, []byte(channelID))) == 0 {
			t.Errorf("%s: the search finds nothing at all", when)
		}
	}
	check("while open")
	s.Done()
	ok(t, l.Close())
	check("when closed")
	l, err = ledger.Open(context.Background(), ledger.Config{Dir: filepath.Join(dir, "ledger"), ChannelID: channelID, Keyring: keyring})
	ok(t, err)
	defer l.Close()
	snapshot, err := l.Snapshot()
	ok(t, err)
	defer snapshot.Release()
	if v, err := snapshot.Get("kv", "a-key-of-the-state"); err != nil || !bytes.Equal(v, canary("value")) {
		t.Errorf("value is %q, %v", v, err)
	}
	check("when opened again")
}

const (
	killDir = "STRONGROOM_TEST_KILL_DIR"
	killKey = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
)

func killKeyring(t *testing.T, dir string) *seal.Keyring {
	t.Helper()
	key, err := hex.DecodeString(killKey)
	ok(t, err)
	return sealtest.KeyringIn(t, filepath.Join(dir, "keys"), sealtest.WrapperOf(t, "w", key))
}

func openKilled(t *testing.T, dir string) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(context.Background(), ledger.Config{
		Dir: filepath.Join(dir, "ledger"), ChannelID: channelID, Keyring: killKeyring(t, dir), BlockFileSize: 64 << 10,
	})
	ok(t, err)
	return l
}

// commitForever is the process that TestKill kills: each block adds one to a
// counter and to ten keys, and a line tells that the block is committed.
func commitForever(t *testing.T, dir string) {
	l := openKilled(t, dir)
	for {
		n := l.Height()
		code := run(t, l, func(s *ledger.Simulator) {
			_, err := s.Get("kv", "counter")
			ok(t, err)
			for i := range 10 {
				ok(t, s.Put("kv", fmt.Sprintf("key%d", i), fmt.Appendf(nil, "%d", n+1)))
			}
			ok(t, s.Put("kv", "counter", fmt.Appendf(nil, "%d", n+1)))
		})
		if code != peerpb.TxValidationCode_VALID {
			t.Fatalf("block %d: %s", n, code)
		}
		fmt.Printf("committed %d\n", n)
	}
}

// A process that is killed at any moment loses no block that it reported, and the
// next one goes on from there.
func TestKill(t *testing.T) {
	if dir := os.Getenv(killDir); dir != "" {
		commitForever(t, dir)
	}
	dir := t.TempDir()
	reported := int64(-1)
	for round := range 6 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$", "-test.v")
		cmd.Env = append(os.Environ(), killDir+"="+dir)
		out, err := cmd.StdoutPipe()
		ok(t, err)
		ok(t, cmd.Start())
		// Killed after some blocks, at whatever the next commit is doing then.
		want := reported + 3 + int64(round)
		lines := bufio.NewScanner(out)
		for reported < want && lines.Scan() {
			var n int64
			if _, err := fmt.Sscanf(lines.Text(), "committed %d", &n); err == nil {
				reported = n
			}
		}
		ok(t, cmd.Process.Kill())
		rest, err := io.ReadAll(out)
		ok(t, err)
		if reported < want {
			t.Fatalf("the process ended by itself: %s%s", lines.Text(), rest)
		}
		for line := range strings.Lines(string(rest)) {
			var n int64
			if _, err := fmt.Sscanf(line, "committed %d\n", &n); err == nil {
				reported = n
			}
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) {
			t.Fatalf("the process was not killed: %v", err)
		}
		t.Run(fmt.Sprintf("round %d", round), func(t *testing.T) {
			l := openKilled(t, dir)
			defer l.Close()
			if l.Height() < uint64(reported+1) {
				t.Errorf("height is %d, block %d was reported", l.Height(), reported)
			}
			s, err := l.Snapshot()
			ok(t, err)
			defer s.Release()
			for _, key := range []string{"counter", "key0", "key9"} {
				if v, err := s.Get("kv", key); err != nil || string(v) != fmt.Sprint(l.Height()) {
					t.Errorf("%s is %q at height %d: %v", key, v, l.Height(), err)
				}
			}
		})
	}
}

// Blocks waits for blocks that are not there yet, and ends with the context, with
// the ledger, or when the caller has enough.
func TestBlocks(t *testing.T) {
	l, err := ledger.Open(context.Background(), ledger.Config{Dir: t.TempDir(), ChannelID: channelID, Keyring: sealtest.Keyring(t), CachedBlocks: 2})
	ok(t, err)
	for i := range 5 {
		fill(t, l, "kv", i+1)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var got []uint64
	for b, err := range l.Blocks(ctx, 1) {
		ok(t, err)
		got = append(got, b.Header.Number)
		if n := b.Header.Number; n >= 4 && n < 7 {
			go fill(t, l, "kv", 1)
		}
		if b.Header.Number == 7 {
			break
		}
	}
	if fmt.Sprint(got) != "[1 2 3 4 5 6 7]" {
		t.Errorf("blocks are %v", got)
	}
	got = nil
	for b, err := range l.ParsedBlocks(ctx, 0) {
		ok(t, err)
		got = append(got, b.Number())
		if len(b.Txs) != 1 || b.Txs[0].TxID() == "" {
			t.Errorf("block %d is not parsed", b.Number())
		}
		if b.Number() == 7 {
			break
		}
	}
	if fmt.Sprint(got) != "[0 1 2 3 4 5 6 7]" {
		t.Errorf("parsed blocks are %v", got)
	}
	short, stop := context.WithCancel(context.Background())
	go stop()
	for _, err := range l.Blocks(short, 8) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("after cancel: %v", err)
		}
	}
	ended := make(chan error)
	go func() {
		for _, err := range l.Blocks(ctx, 8) {
			ended <- err
		}
	}()
	ok(t, l.Close())
	if err := <-ended; !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
	if _, err := l.Block(0); !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("block after close: %v", err)
	}
	if _, err := l.NewSimulator(""); !errors.Is(err, ledger.ErrClosed) {
		t.Errorf("simulator after close: %v", err)
	}
	ok(t, l.Close())
}

func TestNotFound(t *testing.T) {
	l := ledgertest.Open(t, channelID)
	fill(t, l, "kv", 1)
	_, _, codeErr := l.ValidationCode("none")
	for name, err := range map[string]error{
		"block": second(l.Block(1)), "parsed block": second(l.ParsedBlock(1)), "hash": second(l.BlockByHash([]byte("none"))),
		"block of a transaction": second(l.BlockByTxID("none")), "transaction": second(l.Transaction("none")), "code": codeErr,
	} {
		if !errors.Is(err, ledger.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if found, err := l.HasTx("none"); err != nil || found {
		t.Errorf("HasTx: %t, %v", found, err)
	}
	if found, err := l.HasTx(""); err != nil || found {
		t.Errorf("HasTx of no id: %t, %v", found, err)
	}
}
