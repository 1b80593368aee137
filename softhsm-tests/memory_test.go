package softhsmtests

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"strongroom/bccsp/pkcs11"
)

// mapping is one line of /proc/PID/maps that can be read.
type mapping struct {
	from, to uint64
	name     string // "" for anonymous memory
	// Properties of /proc/PID/smaps: VmFlags lo (locked) and dd (kept out of core dumps).
	locked, undumped bool
}

func (m mapping) String() string {
	return fmt.Sprintf("%x-%x %q locked %t undumped %t", m.from, m.to, m.name, m.locked, m.undumped)
}

// mappings lists the readable memory of a process.
func mappings(t *testing.T, pid int) []mapping {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Fatalf("the memory of process %d cannot be read: run this test as root with CAP_SYS_PTRACE: %v", pid, err)
	}
	defer f.Close()
	var all []mapping
	readable := false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		var m mapping
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &m.from, &m.to); err == nil {
			if readable = strings.HasPrefix(fields[1], "r"); readable {
				if len(fields) > 5 {
					m.name = fields[5]
				}
				all = append(all, m)
			}
			continue
		}
		if fields[0] == "VmFlags:" && readable {
			all[len(all)-1].locked = slices.Contains(fields, "lo")
			all[len(all)-1].undumped = slices.Contains(fields, "dd")
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(m mapping) bool { return strings.HasPrefix(m.name, "[v") }) // of the kernel
}

// scan finds a secret in the memory of a process: where, and how often there.
func scan(t *testing.T, pid int, secret []byte) (found map[mapping]int, size uint64) {
	t.Helper()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatalf("the memory of process %d cannot be read: run this test as root with CAP_SYS_PTRACE: %v", pid, err)
	}
	defer mem.Close()
	found = map[mapping]int{}
	buffer := make([]byte, 1<<20)
	defer clear(buffer)
	for _, m := range mappings(t, pid) {
		step := uint64(len(buffer) - len(secret) + 1)
		for at := m.from; at < m.to; at += step {
			n, err := mem.ReadAt(buffer[:min(uint64(len(buffer)), m.to-at)], int64(at))
			if err != nil && err != io.EOF && n == 0 {
				break // unmapped in the meantime, or a file that is shorter than its mapping
			}
			size += uint64(n)
			found[m] += bytes.Count(buffer[:n], secret)
			if uint64(n) < min(uint64(len(buffer)), m.to-at) {
				break
			}
		}
		if found[m] == 0 {
			delete(found, m)
		}
	}
	return found, size
}

// dataKey unwraps the newest data key of a node's keyring, with the node's own token.
func dataKey(t *testing.T, org, data string) []byte {
	t.Helper()
	terms, err := filepath.Glob(filepath.Join(data, "keyring", "term-*"))
	if err != nil || len(terms) == 0 {
		t.Fatalf("no data key in %s: %v", data, err)
	}
	text, err := os.ReadFile(slices.Max(terms))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^wrapped ([0-9a-f]+)$`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("%s holds no wrapped key", slices.Max(terms))
	}
	wrapped, err := hex.DecodeString(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(filepath.Join(org, "peer.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	module := regexp.MustCompile(`(?m)^  module: (.*)$`).FindSubmatch(config)
	if module == nil {
		t.Fatal("peer.yaml names no module")
	}
	t.Setenv("SOFTHSM2_CONF", filepath.Join(org, "softhsm2.conf"))
	token, err := pkcs11.Open(t.Context(), pkcs11.Config{
		Module: string(module[1]), TokenLabel: filepath.Base(org), WrappingKeyLabel: "strongroom-kek",
		PIN: pkcs11.PINSource{File: filepath.Join(org, filepath.Base(org)+".pin")}, Sessions: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := token.UnwrapKey(t.Context(), wrapped)
	if err := token.Close(); err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestMemoryOfARunningPeer reads the memory of a peer that serves, as root can, and
// looks for the PIN and the data key.
func TestMemoryOfARunningPeer(t *testing.T) {
	n := start(t)
	process, err := n.load(t).Find("peer0.org1")
	if err != nil {
		t.Fatal(err)
	}
	org := filepath.Join(n.dir, "org1")

	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", process.PID))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^Max core file size +0 +0 +bytes`).Match(limits) {
		t.Errorf("the peer may dump core:\n%s", limits)
	}

	// What must be there shows that the search finds what is there.
	if found, size := scan(t, process.PID, []byte("strongroom-kek")); len(found) == 0 {
		t.Fatalf("the wrapping key's label is not found in %d bytes: the search is blind", size)
	}

	// Halves too: freed memory may be overwritten in part.
	pin, err := os.ReadFile(filepath.Join(org, "org1.pin"))
	if err != nil {
		t.Fatal(err)
	}
	pin = bytes.TrimSpace(pin)
	half := len(pin) / 2
	for part, secret := range map[string][]byte{"the PIN": pin, "the PIN's first half": pin[:half], "the PIN's second half": pin[half:]} {
		found, size := scan(t, process.PID, secret)
		t.Logf("%s: %d places in %d bytes", part, len(found), size)
		for m, times := range found {
			t.Errorf("%s stands %d times in %s", part, times, m)
		}
	}

	// The data key is in locked memory, and in the cipher's key schedule, which begins
	// with the key and lies in the Go heap, which is anonymous memory; and, as this is a
	// key that was made a moment ago, in the schedule that crypto/cipher copied, until
	// the garbage collector's memory is used again. Nowhere else.
	key := dataKey(t, org, filepath.Join(org, "data"))
	defer clear(key)
	found, size := scan(t, process.PID, key)
	t.Logf("data key: %d places in %d bytes", len(found), size)
	locked, heap := 0, 0
	for m, times := range found {
		t.Logf("the data key stands %d times in %s", times, m)
		switch {
		case m.locked && m.undumped:
			locked += times
		case m.name == "" || strings.HasPrefix(m.name, "[anon: Go"):
			heap += times
		default:
			t.Errorf("the data key stands %d times in %s", times, m)
		}
	}
	if locked != 1 || heap > 2 {
		t.Errorf("the data key stands %d times in locked memory and %d times in other anonymous memory, want 1 and at most 2", locked, heap)
	}
}
