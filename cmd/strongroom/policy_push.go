package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"strongroom/acl/bundles"
	"strongroom/appliance"
	"strongroom/appliance/config"
	"strongroom/ledger/translog"
	"strongroom/policy/bundle"
)

func policyPushCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "push ARCHIVE",
		Short: "Put a signed bundle where a node takes its bundles from",
		Long: `Run on the node's machine. It checks the bundle as the node will: the signature with the
node's token, that the revision is newer than the one in force, the rules and their
tests. Only then it is put, as a whole, to policy.bundle.file or into
policy.bundle.folder; the node takes it the next time that it looks.`,
		Example: "  strongroom policy push bundle-13.tar.gz --config peer.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := config.LoadNode(file)
			if err != nil {
				return err
			}
			archive, err := bundles.File(args[0]).Fetch(cmd.Context())
			if err != nil {
				return err
			}
			b, err := checkPush(cmd.Context(), c, archive)
			if err != nil {
				return err
			}
			target := c.Policy.Bundle.File
			if target == "" {
				target = filepath.Join(c.Policy.Bundle.Folder, fmt.Sprintf("bundle-%020d.tar.gz", b.Revision))
				if err := lastByName(c.Policy.Bundle.Folder, target); err != nil {
					return err
				}
			}
			if err := translog.WriteFile(target, archive); err != nil {
				return err
			}
			result := map[string]any{"file": target, "revision": b.Revision, "digest": b.Digest.String()}
			return show(cmd, result, func(w io.Writer) {
				fmt.Fprintf(w, "bundle\t%s\nrevision\t%d\ndigest\t%s\n", target, b.Revision, b.Digest)
			})
		},
	}
	configFlag(cmd, &file, "peer.yaml")
	return cmd
}

// checkPush checks an archive as the node with a configuration does.
func checkPush(ctx context.Context, c *config.NodeFile, archive []byte) (_ *bundle.Bundle, err error) {
	conf := c.Policy.Bundle
	if conf.File == "" && conf.Folder == "" {
		return nil, errors.New("the node's policy.bundle names neither file nor folder: it takes no bundles from this machine")
	}
	pem, err := os.ReadFile(conf.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("policy.bundle.publicKey: %w", err)
	}
	key, err := bundle.ParseKey(pem, conf.KeyID, conf.Scope)
	if err != nil {
		return nil, fmt.Errorf("policy.bundle: %w", err)
	}
	token, err := appliance.OpenToken(ctx, c.Token, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, token.Close()) }()
	b, err := bundle.Open(ctx, token, key, archive)
	if err != nil {
		return nil, err
	}
	kept, err := bundles.File(filepath.Join(c.Data, "policy", "bundle.tar.gz")).Fetch(ctx)
	if err == nil {
		var revision uint64
		if revision, err = bundle.Claimed(kept); err == nil && b.Revision <= revision {
			return nil, fmt.Errorf("the bundle has revision %d, and %d is in force: sign it again with a higher one", b.Revision, revision)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	_, err = bundles.Compile(ctx, b, 0)
	return b, err
}

// lastByName refuses a folder in which the node would take another file than the target.
func lastByName(folder, target string) error {
	names, err := filepath.Glob(filepath.Join(folder, "*.tar.gz")) // sorted
	if err != nil || len(names) == 0 {
		return err
	}
	if last := names[len(names)-1]; last > target {
		return fmt.Errorf("%s comes after %s by name, so the node would go on taking it: rename or remove it", last, filepath.Base(target))
	}
	return nil
}
