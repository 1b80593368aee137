package softhsmtests

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"
)

// kills is how often a process of the network is killed in TestKill.
const kills = 50

// TestKill kills a peer or the ordering node with signal 9, fifty times, in the
// middle of a stream of transactions: every transaction that was acknowledged is
// there afterwards, once, on both peers.
func TestKill(t *testing.T) {
	n := start(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		acked []string // guarded by mu
	)
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acked)
	}
	for w := range 8 {
		user := n.dialUser(t, []string{"org1", "org2"}[w%2])
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("kill-%x-%d-%d", seed, w, i)
				attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
				_, err := user.Submit(attempt, call("CreateAsset", id, "grey", "1", "Kay", "1"))
				cancel()
				if err == nil {
					mu.Lock()
					acked = append(acked, id)
					mu.Unlock()
					continue
				}
				select { // the node this worker speaks to may be down
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	victims := []string{"peer0.org1", "peer0.org2", "orderer0.orderer"}
	for i := range kills {
		// The next kill comes when the network works again, at a random moment.
		for before, deadline := count(), time.Now().Add(30*time.Second); count() < before+4; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("no transaction went through in the 30 s before kill %d", i)
			}
		}
		time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
		name := victims[random.IntN(len(victims))]
		p, err := n.load(t).Find(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
			t.Fatalf("kill %d of %s: %v", i, name, err)
		}
		for p.Running() {
			time.Sleep(time.Millisecond)
		}
		if _, err := n.try("dev", "up", "--dir", n.dir); err != nil {
			t.Fatalf("after kill %d, of %s: %v", i, name, err)
		}
	}
	stop()
	wg.Wait()
	t.Logf("%d transactions acknowledged during %d kills", len(acked), kills)

	for _, org := range []string{"org1", "org2"} {
		user := n.dialUser(t, org)
		for _, id := range acked {
			result, err := user.Evaluate(t.Context(), call("GetAssetHistory", id))
			if err != nil {
				t.Fatalf("%s: %s was acknowledged: %v", org, id, err)
			}
			var history []json.RawMessage
			if err := json.Unmarshal(result, &history); err != nil {
				t.Fatal(err)
			}
			if len(history) != 1 {
				t.Errorf("%s: %s is there %d times", org, id, len(history))
			}
		}
	}
}
