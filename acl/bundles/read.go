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

// ReadContents reads the files of an archive, whatever its signature, or of a folder: for
// tools, not for a node.
func ReadContents(ctx context.Context, path string) (bundle.Contents, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return bundle.ReadFolder(path)
	}
	archive, err := File(path).Fetch(ctx)
	if err != nil {
		return nil, err
	}
	return bundle.Unpack(archive)
}

// ReadBundle reads an archive, whatever its signature, or a folder, which may lack a
// .manifest: for tools, not for a node.
func ReadBundle(ctx context.Context, path string) (*bundle.Bundle, error) {
	files, err := ReadContents(ctx, path)
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
