package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/util"

	"strongroom/bccsp"
	"strongroom/policy"
)

// ErrUnsigned says that an archive has no signature.
var ErrUnsigned = errors.New("the bundle is not signed")

// ErrNotAnswered says that the token could not tell whether a signature is good: the
// same archive may pass later.
var ErrNotAnswered = errors.New("the token did not answer")

// Bundle is a bundle's content. Nothing may change it.
type Bundle struct {
	Revision uint64
	Digest   policy.Digest     // SHA-256 of the archive; zero for one that was made of files
	Rego     map[string][]byte // by name, tests included
	Data     map[string]any
}

// manifest is what is read of a .manifest.
type manifest struct {
	Revision         string          `json:"revision"`
	Roots            []string        `json:"roots"`
	RegoVersion      *int            `json:"rego_version"`
	FileRegoVersions map[string]int  `json:"file_rego_versions"`
	Wasm             json.RawMessage `json:"wasm"`
}

// Open verifies an archive in the token and reads it. Errors name the file and the
// fix. One that wraps bccsp.ErrBadSignature or ErrUnsigned says that nobody who may
// has signed it; a failure of the token wraps ErrNotAnswered.
func Open(ctx context.Context, v bccsp.Verifier, key Key, archive []byte) (*Bundle, error) {
	files, err := unpack(archive)
	if err != nil {
		return nil, fmt.Errorf("policy bundle: %w", err)
	}
	if err := verify(ctx, v, key, files); err != nil {
		return nil, fmt.Errorf("policy bundle: %w", err)
	}
	b, err := Read(files)
	if err != nil {
		return nil, err
	}
	b.Digest = sha256.Sum256(archive)
	return b, nil
}

// Unpack reads an archive's files without looking at its signature: for tools that
// check or sign, never for rules that decide.
func Unpack(archive []byte) (Contents, error) {
	files, err := unpack(archive)
	if err != nil {
		return nil, fmt.Errorf("policy bundle: %w", err)
	}
	return files, nil
}

// Claimed is the revision that an archive says it has, whoever made it: good enough to
// refuse what is older, and for nothing else.
func Claimed(archive []byte) (uint64, error) {
	files, err := unpack(archive)
	if err != nil {
		return 0, fmt.Errorf("policy bundle: %w", err)
	}
	m, err := readManifest(files)
	if err != nil {
		return 0, fmt.Errorf("policy bundle: %w", err)
	}
	return revision(m)
}

// Read reads the files of a bundle. It does not look at signatures.
func Read(files Contents) (*Bundle, error) {
	m, err := readManifest(files)
	if err != nil {
		return nil, fmt.Errorf("policy bundle: %w", err)
	}
	b := &Bundle{Rego: map[string][]byte{}, Data: map[string]any{}}
	if b.Revision, err = revision(m); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		content := files[name]
		switch base := path.Base(name); {
		case name == manifestFile || name == signaturesFile:
		case base == dataFile:
			if err := b.addData(path.Dir(name), content); err != nil {
				return nil, fmt.Errorf("policy bundle: %s: %w", name, err)
			}
		case path.Ext(name) == ".rego":
			b.Rego[name] = content
		case base == "patch.json":
			return nil, errors.New("policy bundle: patch.json makes it a delta bundle, which cannot be signed: make a whole one")
		case base == "data.yaml" || base == "data.yml":
			return nil, fmt.Errorf("policy bundle: %s: write it as data.json, which has one meaning", name)
		default:
			return nil, fmt.Errorf("policy bundle: %s is neither Rego nor data.json: leave it out (Rego is evaluated as source, never as WebAssembly or a plan)", name)
		}
	}
	if len(b.Rego) == 0 {
		return nil, errors.New("policy bundle: there is no .rego file in it")
	}
	if _, ok := b.Data["strongroom"]; ok {
		return nil, errors.New("policy bundle: data has \"strongroom\", where the rules are: name it otherwise")
	}
	return b, nil
}

func readManifest(files Contents) (*manifest, error) {
	content, ok := files[manifestFile]
	if !ok {
		return nil, errors.New(".manifest is missing: build with a revision (opa build --revision, strongroom policy sign --revision)")
	}
	m := new(manifest)
	if err := json.Unmarshal(content, m); err != nil {
		return nil, fmt.Errorf(".manifest: %w", err)
	}
	if m.RegoVersion != nil && *m.RegoVersion != 1 {
		return nil, fmt.Errorf(".manifest: rego_version is %d: only Rego version 1 is evaluated", *m.RegoVersion)
	}
	for file, v := range m.FileRegoVersions {
		if v != 1 {
			return nil, fmt.Errorf(".manifest: file_rego_versions has %d for %s: only Rego version 1 is evaluated", v, file)
		}
	}
	if len(m.Wasm) > 0 && !bytes.Equal(m.Wasm, []byte("null")) {
		return nil, errors.New(".manifest: it names WebAssembly: build with the target rego")
	}
	return m, nil
}

// revision is a manifest's revision: a whole number, so that it has an order.
func revision(m *manifest) (uint64, error) {
	n, err := strconv.ParseUint(m.Revision, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != m.Revision || n == 0 {
		return 0, fmt.Errorf("policy bundle: .manifest: the revision is %.64q: give a whole number from 1 that grows with each bundle, such as the number of the build", m.Revision)
	}
	return n, nil
}

// addData puts the document of a data.json where its folder says.
func (b *Bundle) addData(folder string, content []byte) error {
	var document map[string]any
	if err := util.Unmarshal(content, &document); err != nil {
		return fmt.Errorf("not a JSON object: %w", err)
	}
	at := b.Data
	if folder != "." {
		for _, name := range strings.Split(folder, "/") {
			next, ok := at[name].(map[string]any)
			if _, there := at[name]; there && !ok {
				return fmt.Errorf("another data.json has a value at %s", name)
			}
			if next == nil {
				next = map[string]any{}
				at[name] = next
			}
			at = next
		}
	}
	for name, value := range document {
		if _, twice := at[name]; twice {
			return fmt.Errorf("another data.json has %s too", name)
		}
		at[name] = value
	}
	return nil
}

// Manifest is the .manifest of a bundle that is made here.
func Manifest(revision uint64) ([]byte, error) {
	return json.Marshal(map[string]any{"revision": strconv.FormatUint(revision, 10), "roots": []string{""}, "rego_version": 1})
}
