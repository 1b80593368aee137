// Package version says which build this is. It performs no I/O.
package version

import "runtime/debug"

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
// system recorded in the binary.
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
