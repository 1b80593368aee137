// Package version says which build this is.
package version

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
)

// Version is set by the Makefile to what git describes; a plain `go build` leaves it.
var Version = "unknown"

// Info describes the build.
type Info struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OPA     string `json:"opa"`
	PKCS11  string `json:"pkcs11"`
}

// Read returns the build's description, from the linker and from what the module
// system recorded in the binary. It performs no I/O.
func Read() Info {
	info := Info{Version: Version}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	info.Go = build.GoVersion
	for _, dep := range build.Deps {
		switch dep.Path {
		case "github.com/open-policy-agent/opa":
			info.OPA = dep.Version
		case "github.com/miekg/pkcs11":
			info.PKCS11 = dep.Version
		}
	}
	return info
}

// Digest is the SHA-256, in hexadecimal, of the executable that this process runs. It is
// read once; the file may have been replaced on disk since the process began.
var Digest = sync.OnceValues(func() (string, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("this program's executable: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("this program's executable: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
})
