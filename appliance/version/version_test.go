package version

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Digest is what sha256sum says of this test's own executable.
func TestDigest(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sha256sum", exe).Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Digest()
	if err != nil || !strings.HasPrefix(string(out), got+" ") {
		t.Errorf("%s %v, sha256sum says %s", got, err, out)
	}
}
