package bundles

import (
	"context"
	"os"
	"strings"

	"strongroom/policy/bundle"
)

// ReadRules compiles the rules of an archive, whatever its signature, or of a folder,
// without running their tests: for tools, not for a node.
func ReadRules(ctx context.Context, path string) (*Rules, error) {
	b, err := ReadBundle(ctx, path)
	if err != nil {
		return nil, err
	}
	for name := range b.Rego {
		if strings.HasSuffix(name, "_test.rego") {
			delete(b.Rego, name)
		}
	}
	return Compile(ctx, b, 0)
}

// ReadBundle reads an archive, whatever its signature, or a folder, which may lack a
// .manifest: for tools, not for a node.
func ReadBundle(ctx context.Context, path string) (*bundle.Bundle, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	var files bundle.Contents
	if info.IsDir() {
		files, err = bundle.ReadFolder(path)
	} else {
		var archive []byte
		if archive, err = File(path).Fetch(ctx); err == nil {
			files, err = bundle.Unpack(archive)
		}
	}
	if err != nil {
		return nil, err
	}
	if files[".manifest"] == nil {
		if files[".manifest"], err = bundle.Manifest(1); err != nil {
			return nil, err
		}
	}
	return bundle.Read(files)
}
