// Package ccpackage reads and writes Fabric chaincode packages of the type ccaas
// (chaincode as a service): a .tar.gz with metadata.json and code.tar.gz, and in
// the latter connection.json and, if there are any, index definitions below
// META-INF. It performs no I/O.
package ccpackage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
)

// TypeService is the only package type that this peer runs. Fabric's peers call
// it ccaas; external is accepted as the older name that samples used.
const (
	TypeService  = "ccaas"
	typeExternal = "external"
)

// Bounds of a package. A ccaas package is a few kilobytes: it holds an address
// and perhaps certificates.
const (
	MaxPackageBytes = 1 << 20 // the package as it is installed
	maxUnpacked     = 4 << 20 // all files of one archive together
	maxFiles        = 1000    // entries of one archive
	maxLabel        = 256
)

// label is Fabric's rule (core/chaincode/persistence, LabelRegexp).
var label = regexp.MustCompile(`^[[:alnum:]][[:alnum:]_.+-]*$`)

// Package is a parsed chaincode package.
type Package struct {
	ID         string // "label:sha256hex" of the package's bytes
	Label      string
	Type       string
	Connection Connection
	MetaInf    map[string][]byte // files of the code archive below META-INF/, by their full name; see Indexes
}

// metadata is metadata.json. Fabric writes path too; it has no meaning here.
type metadata struct {
	Path  string `json:"path"`
	Type  string `json:"type"`
	Label string `json:"label"`
}

// ID is the package id of a package's bytes under a label.
func ID(label string, pkg []byte) string {
	sum := sha256.Sum256(pkg)
	return label + ":" + hex.EncodeToString(sum[:])
}

// CheckLabel says whether a label is one that Fabric accepts.
func CheckLabel(s string) error {
	if len(s) > maxLabel {
		return fmt.Errorf("label of %d characters is too long; use at most %d", len(s), maxLabel)
	}
	if !label.MatchString(s) {
		return fmt.Errorf("label %q is invalid; use letters, digits and _ . + -, starting with a letter or digit", s)
	}
	return nil
}

// CheckID says whether s has the form of a package id.
func CheckID(s string) error {
	l, sum, ok := strings.Cut(s, ":")
	if !ok {
		return fmt.Errorf("package id %q is invalid; it is label:hash as printed at installation", s)
	}
	if err := CheckLabel(l); err != nil {
		return fmt.Errorf("package id %q: %w", s, err)
	}
	if b, err := hex.DecodeString(sum); err != nil || len(b) != sha256.Size || strings.ToLower(sum) != sum {
		return fmt.Errorf("package id %q: the hash is not 64 lower-case hexadecimal digits", s)
	}
	return nil
}

// Parse reads a package strictly. It never writes to disk and holds no more than
// the bounds above in memory. Unknown package types are refused with what to do.
func Parse(pkg []byte) (*Package, error) {
	if len(pkg) > MaxPackageBytes {
		return nil, fmt.Errorf("chaincode package has %d bytes; at most %d are accepted for a ccaas package", len(pkg), MaxPackageBytes)
	}
	outer, err := unpack(pkg)
	if err != nil {
		return nil, fmt.Errorf("chaincode package: %w", err)
	}
	for name := range outer {
		if name != "metadata.json" && name != "code.tar.gz" {
			return nil, fmt.Errorf("chaincode package: unexpected file %q; a package holds metadata.json and code.tar.gz", name)
		}
	}
	rawMeta, ok := outer["metadata.json"]
	if !ok {
		return nil, errors.New("chaincode package: metadata.json is missing; make the package with `strongroom chaincode package` or `peer lifecycle chaincode package`")
	}
	var m metadata
	if err := json.Unmarshal(rawMeta, &m); err != nil {
		return nil, fmt.Errorf("chaincode package: metadata.json: %w", err)
	}
	if err := CheckLabel(m.Label); err != nil {
		return nil, fmt.Errorf("chaincode package: metadata.json: %w", err)
	}
	switch strings.ToLower(m.Type) {
	case TypeService, typeExternal:
	case "":
		return nil, errors.New("chaincode package: metadata.json: type is missing; use \"ccaas\"")
	default:
		return nil, fmt.Errorf("chaincode package: type %q cannot run here: this peer builds no chaincode; run it as a service and package its address with type \"ccaas\"", m.Type)
	}
	code, ok := outer["code.tar.gz"]
	if !ok {
		return nil, errors.New("chaincode package: code.tar.gz is missing; it holds connection.json")
	}
	p := &Package{ID: ID(m.Label, pkg), Label: m.Label, Type: m.Type}
	files, err := unpack(code)
	if err != nil {
		return nil, fmt.Errorf("chaincode package: code.tar.gz: %w", err)
	}
	for name, content := range files {
		switch {
		case name == "connection.json":
		case strings.HasPrefix(name, "META-INF/"):
			if p.MetaInf == nil {
				p.MetaInf = make(map[string][]byte)
			}
			p.MetaInf[name] = content
		default:
			return nil, fmt.Errorf("chaincode package: code.tar.gz: unexpected file %q; a ccaas package holds connection.json and META-INF/", name)
		}
	}
	raw, ok := files["connection.json"]
	if !ok {
		return nil, errors.New("chaincode package: code.tar.gz: connection.json is missing; it says where the chaincode service listens")
	}
	if p.Connection, err = ParseConnection(raw); err != nil {
		return nil, fmt.Errorf("chaincode package: %w", err)
	}
	return p, nil
}

// Write makes a package. The same arguments make the same bytes, thus the same
// package id, on any machine.
func Write(label string, c Connection) ([]byte, error) { return write(label, c, nil) }

type file struct {
	name    string
	content []byte
}

// pack writes a .tar.gz that depends on nothing but its files: no times, owners
// or modes of this machine.
func pack(files ...file) ([]byte, error) {
	var out bytes.Buffer
	// Stored, not compressed: another version of the compressor must not
	// change the package id.
	zip, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
	if err != nil {
		return nil, err
	}
	archive := tar.NewWriter(zip)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o100644, Size: int64(len(f.content)), Format: tar.FormatUSTAR}
		if err := archive.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := archive.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// unpack reads the regular files of a .tar.gz into memory.
func unpack(data []byte) (map[string][]byte, error) {
	zip, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("not a gzip archive: %w", err)
	}
	// One byte over the bound tells a full archive from a cut one.
	limited := &io.LimitedReader{R: zip, N: maxUnpacked + 1}
	archive := tar.NewReader(limited)
	files := make(map[string][]byte)
	for entries := 0; ; entries++ {
		h, err := archive.Next()
		if limited.N <= 0 {
			return nil, fmt.Errorf("unpacks to more than %d bytes", maxUnpacked)
		}
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("not a tar archive: %w", err)
		}
		if entries >= maxFiles {
			return nil, fmt.Errorf("has more than %d entries", maxFiles)
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return nil, err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			continue
		case tar.TypeReg:
		default:
			return nil, fmt.Errorf("entry %q is neither a file nor a folder; links and devices are refused", h.Name)
		}
		if _, twice := files[name]; twice {
			return nil, fmt.Errorf("file %q is there twice", name)
		}
		content, err := io.ReadAll(archive)
		if limited.N <= 0 {
			return nil, fmt.Errorf("unpacks to more than %d bytes", maxUnpacked)
		}
		if err != nil {
			return nil, fmt.Errorf("file %q: %w", name, err)
		}
		files[name] = content
	}
}

// cleanName refuses names that lead out of the archive and drops a leading "./".
func cleanName(name string) (string, error) {
	clean := path.Clean(name)
	if name == "" || path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsAny(name, "\\\x00") {
		return "", fmt.Errorf("entry %q has a path that leads out of the package", name)
	}
	return clean, nil
}
