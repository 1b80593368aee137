package softhsmtests

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"strongroom/appliance/client"
	"strongroom/softhsm-tests/faulty"
)

// TestPINChange changes the PIN of a running peer's token by the command, and takes the
// peer's login away: it logs in again with the new PIN from its file, in the same
// process, and no part of that PIN stays in its memory.
func TestPINChange(t *testing.T) {
	n := start(t)
	org := filepath.Join(n.dir, "org1")
	var module *faulty.Module
	var real string
	a := startApplianceWith(t, n, "pins", func(text string) string {
		re := regexp.MustCompile(`(?m)^  module: (.*)$`)
		m := re.FindStringSubmatch(text)
		if m == nil {
			t.Fatal("peer.yaml names no module")
		}
		real = m[1]
		var err error
		if module, err = faulty.Build(t.TempDir(), real); err != nil {
			t.Fatal(err)
		}
		return re.ReplaceAllLiteralString(text, "  module: "+module.Path)
	})
	pinFile := filepath.Join(org, "org1.pin")
	old, err := os.ReadFile(pinFile)
	if err != nil {
		t.Fatal(err)
	}
	change := func(to []byte) {
		t.Helper()
		write(t, pinFile+".new", to)
		if err := os.Chmod(pinFile+".new", 0o600); err != nil {
			t.Fatal(err)
		}
		n.run(t, "token", "pin", "--module", real, "--softhsm-conf", filepath.Join(org, "softhsm2.conf"),
			"--token", "org1", "--pin-file", pinFile, "--new-pin-file", pinFile+".new", "--replace")
	}
	// Long, so that memory that is used again overwrites a part of it at most.
	random := make([]byte, 150)
	rand.Read(random)
	pin := []byte(base64.StdEncoding.EncodeToString(random))
	change(pin)
	t.Cleanup(func() { change(old) })

	if err := module.Set(faulty.Rule{Function: "C_SignInit", From: 1, Count: 1, Action: faulty.Drop}); err != nil {
		t.Fatal(err)
	}
	u := n.dialUser(t, "org1").at(t, a.listen(t), filepath.Join(org, "msp", "tlscacerts", "tlsca.pem"))
	inv := client.Invocation{Channel: "pins", Chaincode: "qscc", Args: [][]byte{[]byte("GetChainInfo"), []byte("pins")}}
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, err := endorsed(t.Context(), u, inv)
		fired, firedErr := module.Fired()
		if firedErr != nil {
			t.Fatal(firedErr)
		}
		if err == nil && fired["C_SignInit"] > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the peer does not endorse after its login was lost and the PIN changed: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	a.waitReady(t)
	log, err := os.ReadFile(a.process.Log)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), `"event":"stopped"`) {
		t.Error("the token was stopped")
	}

	if found, size := scan(t, a.process.PID, []byte("strongroom-kek")); len(found) == 0 {
		t.Fatalf("the wrapping key's label is not found in %d bytes: the search is blind", size)
	}
	const part = 20
	// What a processor's registers held when a signal came stands in memory afterwards:
	// SECURITY.md. It is a few parts; a copy of the PIN that nobody wiped is all of them.
	parts := 0
	for i := 0; i+part <= len(pin); i += part {
		found, _ := scan(t, a.process.PID, pin[i:i+part])
		for m, times := range found {
			t.Logf("bytes %d to %d of the PIN stand %d times in %s", i, i+part, times, m)
		}
		if len(found) > 0 {
			parts++
		}
	}
	if whole, _ := scan(t, a.process.PID, pin); len(whole) > 0 || parts > len(pin)/part*7/10 {
		t.Errorf("%d of %d parts of the PIN are in the peer's memory, the whole of it at %v", parts, len(pin)/part, whole)
	}
	if bytes.Contains(log, pin[:part]) {
		t.Error("the log shows the PIN")
	}
}
