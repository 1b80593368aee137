package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"strongroom/acl/validation"
	"strongroom/appliance/client"
	"strongroom/chaincode/ccpackage"
	"strongroom/channel/configtx"
	"strongroom/wire/lifecyclepb"
	"strongroom/wire/peerpb"
)

func chaincodeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "chaincode", Short: "Package, install, agree on and call chaincode"}
	cmd.AddCommand(
		chaincodePackageCommand(), chaincodeInstallCommand(), chaincodeApproveCommand(),
		chaincodeCommitCommand(), chaincodeListCommand(), chaincodeInvokeCommand(), chaincodeQueryCommand(),
	)
	return cmd
}

func chaincodePackageCommand() *cobra.Command {
	var label, out, rootCert, indexes string
	var connection ccpackage.Connection
	cmd := &cobra.Command{
		Use:   "package",
		Short: "Make a package for chaincode that runs as a service",
		Example: `  strongroom chaincode package --label asset_1.0 --address chaincode.example.com:9999 \
      --root-cert ca.pem --out asset.tar.gz`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if rootCert != "" {
				pem, err := os.ReadFile(rootCert)
				if err != nil {
					return err
				}
				connection.RootCert, connection.TLSRequired = string(pem), true
			}
			definitions, err := readIndexes(indexes)
			if err != nil {
				return err
			}
			data, err := ccpackage.WriteIndexed(label, connection, definitions)
			if err != nil {
				return err
			}
			if err := os.WriteFile(out, data, 0o644); err != nil {
				return err
			}
			id := ccpackage.ID(label, data)
			return show(cmd, map[string]string{"file": out, "packageId": id}, func(w io.Writer) {
				fmt.Fprintf(w, "wrote\t%s\npackage id\t%s\n", out, id)
			})
		},
	}
	cmd.Flags().StringVar(&label, "label", "", "the package's `LABEL`, as asset_1.0")
	cmd.Flags().StringVar(&connection.Address, "address", "", "`HOST:PORT` at which the chaincode listens")
	cmd.Flags().StringVar(&rootCert, "root-cert", "", "PEM `FILE` with the issuer of the chaincode's TLS certificate; without it there is no TLS")
	cmd.Flags().BoolVar(&connection.ClientAuthRequired, "client-auth", false, "the chaincode asks for a client certificate: the peer shows its own")
	cmd.Flags().StringVar(&connection.Domain, "domain", "", "name in the chaincode's certificate, when it is not the address's host")
	cmd.Flags().StringVar(&indexes, "indexes", "", "`FOLDER` of index definitions for rich queries, *.json as CouchDB takes them")
	cmd.Flags().StringVar(&out, "out", "chaincode.tar.gz", "`FILE` to write")
	mustMark(cmd, "label", "address")
	return cmd
}

// readIndexes reads the index definitions of a folder; "" stands for none.
func readIndexes(dir string) (map[string][]byte, error) {
	if dir == "" {
		return nil, nil
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("--indexes: folder %s has no file *.json", dir)
	}
	out := map[string][]byte{}
	for _, name := range files {
		if out[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func chaincodeInstallCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "install PACKAGE",
		Short:   "Install a chaincode package on a peer",
		Example: "  strongroom chaincode install asset.tar.gz --config admin.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			return withPeer(cmd, file, func(ctx context.Context, c *client.Client) error {
				id, err := c.Install(ctx, data)
				if err != nil {
					return err
				}
				return show(cmd, map[string]string{"packageId": id}, func(w io.Writer) { fmt.Fprintln(w, id) })
			})
		},
	}
	configFlag(cmd, &file, "admin.yaml")
	return cmd
}

// definitionFlags are what an organisation approves and a channel commits.
type definitionFlags struct {
	file, channel, name, version, policy, rules string
	sequence                                    int64
	initRequired                                bool
}

func (d *definitionFlags) add(cmd *cobra.Command) {
	configFlag(cmd, &d.file, "admin.yaml")
	cmd.Flags().StringVar(&d.channel, "channel", "", "the channel's `NAME`")
	cmd.Flags().StringVar(&d.name, "name", "", "the chaincode's `NAME`")
	cmd.Flags().StringVar(&d.version, "version", "1.0", "the chaincode's `VERSION`")
	cmd.Flags().Int64Var(&d.sequence, "sequence", 1, "how often the definition was committed, this time included")
	cmd.Flags().StringVar(&d.policy, "endorsement", "", "endorsement `POLICY`, as AND('Org1MSP.peer','Org2MSP.peer'); without it the channel's own")
	cmd.Flags().StringVar(&d.rules, "validation-rules", "", "`FOLDER` of Rego that every peer asks at commit, once the endorsement policy holds; the channel needs the capability "+configtx.RegoCapability)
	cmd.Flags().BoolVar(&d.initRequired, "init-required", false, "the chaincode must be initialised before other calls")
	mustMark(cmd, "channel", "name")
}

// validation is the definition's validation plugin and its parameter, as the ledger
// holds them: the endorsement policy and, with rules, Rego.
func (d *definitionFlags) validation(ctx context.Context) (plugin string, parameter []byte, err error) {
	policy := &peerpb.ApplicationPolicy{Type: &peerpb.ApplicationPolicy_ChannelConfigPolicyReference{
		ChannelConfigPolicyReference: "/Channel/Application/Endorsement",
	}}
	if d.policy != "" {
		signature, err := configtx.ParsePolicy(d.policy)
		if err != nil {
			return "", nil, fmt.Errorf("--endorsement: %w", err)
		}
		policy.Type = &peerpb.ApplicationPolicy_SignaturePolicy{SignaturePolicy: signature}
	}
	parameter, err = proto.MarshalOptions{Deterministic: true}.Marshal(policy)
	if err != nil || d.rules == "" {
		return "", parameter, err
	}
	files, err := readValidationRules(d.rules)
	if err == nil {
		parameter, err = validation.Compose(ctx, parameter, files)
	}
	if err != nil {
		return "", nil, fmt.Errorf("--validation-rules: %w", err)
	}
	return validation.Plugin, parameter, nil
}

// readValidationRules reads the .rego files of a folder, by name.
func readValidationRules(dir string) (map[string][]byte, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.rego"))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("folder %s has no file *.rego", dir)
	}
	files := map[string][]byte{}
	for _, name := range names {
		if files[filepath.Base(name)], err = os.ReadFile(name); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func chaincodeApproveCommand() *cobra.Command {
	var d definitionFlags
	var packageID string
	cmd := &cobra.Command{
		Use:   "approve",
		Short: "Approve a chaincode definition in the name of your organisation",
		Example: `  strongroom chaincode approve --channel main --name asset --package-id asset_1.0:4f… \
      --endorsement "AND('Org1MSP.peer','Org2MSP.peer')" --config admin.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			plugin, parameter, err := d.validation(cmd.Context())
			if err != nil {
				return err
			}
			source := &lifecyclepb.ChaincodeSource{Type: &lifecyclepb.ChaincodeSource_Unavailable_{Unavailable: &lifecyclepb.ChaincodeSource_Unavailable{}}}
			if packageID != "" {
				source.Type = &lifecyclepb.ChaincodeSource_LocalPackage{LocalPackage: &lifecyclepb.ChaincodeSource_Local{PackageId: packageID}}
			}
			return withPeer(cmd, d.file, func(ctx context.Context, c *client.Client) error {
				done, err := c.SubmitSystem(ctx, d.channel, "_lifecycle", "ApproveChaincodeDefinitionForMyOrg",
					&lifecyclepb.ApproveChaincodeDefinitionForMyOrgArgs{
						Name: d.name, Version: d.version, Sequence: d.sequence, InitRequired: d.initRequired,
						ValidationPlugin: plugin, ValidationParameter: parameter, Source: source,
					}, c.MSPID())
				return showCommitted(cmd, done, err)
			})
		},
	}
	d.add(cmd)
	cmd.Flags().StringVar(&packageID, "package-id", "", "the installed package's `ID`; without it this organisation's peers do not run the chaincode")
	return cmd
}

func chaincodeCommitCommand() *cobra.Command {
	var d definitionFlags
	var organizations []string
	cmd := &cobra.Command{
		Use:     "commit",
		Short:   "Commit a chaincode definition that enough organisations have approved",
		Example: `  strongroom chaincode commit --channel main --name asset --organizations Org1MSP,Org2MSP --config admin.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			plugin, parameter, err := d.validation(cmd.Context())
			if err != nil {
				return err
			}
			return withPeer(cmd, d.file, func(ctx context.Context, c *client.Client) error {
				done, err := c.SubmitSystem(ctx, d.channel, "_lifecycle", "CommitChaincodeDefinition",
					&lifecyclepb.CommitChaincodeDefinitionArgs{
						Name: d.name, Version: d.version, Sequence: d.sequence, InitRequired: d.initRequired,
						ValidationPlugin: plugin, ValidationParameter: parameter,
					}, organizations...)
				return showCommitted(cmd, done, err)
			})
		},
	}
	d.add(cmd)
	cmd.Flags().StringSliceVar(&organizations, "organizations", nil, "MSP ids of the organisations that endorse the commit; without it the peer chooses")
	return cmd
}

func showCommitted(cmd *cobra.Command, done *client.Committed, err error) error {
	if err != nil {
		return err
	}
	return show(cmd, done, func(w io.Writer) {
		fmt.Fprintf(w, "transaction\t%s\nblock\t%d\nresult\t%s\n", done.TxID, done.Block, done.Result)
	})
}

func chaincodeListCommand() *cobra.Command {
	var file, channel string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the packages installed on a peer, or the definitions committed on a channel",
		Example: "  strongroom chaincode list --config admin.yaml\n  strongroom chaincode list --channel main --config admin.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withPeer(cmd, file, func(ctx context.Context, c *client.Client) error {
				if channel == "" {
					return listInstalled(ctx, cmd, c)
				}
				return listCommitted(ctx, cmd, c, channel)
			})
		},
	}
	configFlag(cmd, &file, "admin.yaml")
	cmd.Flags().StringVar(&channel, "channel", "", "list what is committed on the channel `NAME`")
	return cmd
}

func listInstalled(ctx context.Context, cmd *cobra.Command, c *client.Client) error {
	result := &lifecyclepb.QueryInstalledChaincodesResult{}
	if err := c.System(ctx, "", "_lifecycle", "QueryInstalledChaincodes", &lifecyclepb.QueryInstalledChaincodesArgs{}, result); err != nil {
		return err
	}
	return show(cmd, result.GetInstalledChaincodes(), func(w io.Writer) {
		fmt.Fprintln(w, "LABEL\tPACKAGE ID")
		for _, i := range result.GetInstalledChaincodes() {
			fmt.Fprintf(w, "%s\t%s\n", i.GetLabel(), i.GetPackageId())
		}
	})
}

func listCommitted(ctx context.Context, cmd *cobra.Command, c *client.Client, channel string) error {
	result := &lifecyclepb.QueryChaincodeDefinitionsResult{}
	if err := c.System(ctx, channel, "_lifecycle", "QueryChaincodeDefinitions", &lifecyclepb.QueryChaincodeDefinitionsArgs{}, result); err != nil {
		return err
	}
	return show(cmd, result.GetChaincodeDefinitions(), func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tVERSION\tSEQUENCE")
		for _, d := range result.GetChaincodeDefinitions() {
			fmt.Fprintf(w, "%s\t%s\t%d\n", d.GetName(), d.GetVersion(), d.GetSequence())
		}
	})
}

// callFlags are what invoke and query have in common.
type callFlags struct {
	file, channel, name string
	args, transient     string
}

func (f *callFlags) add(cmd *cobra.Command) {
	configFlag(cmd, &f.file, "user.yaml")
	cmd.Flags().StringVar(&f.channel, "channel", "", "the channel's `NAME`")
	cmd.Flags().StringVar(&f.name, "name", "", "the chaincode's `NAME`")
	cmd.Flags().StringVar(&f.args, "args", "[]", `function and arguments as a JSON list: '["ReadAsset","a1"]'`)
	cmd.Flags().StringVar(&f.transient, "transient", "", `transient fields as a JSON object of strings`)
	mustMark(cmd, "channel", "name", "args")
}

func (f *callFlags) invocation() (client.Invocation, error) {
	inv := client.Invocation{Channel: f.channel, Chaincode: f.name}
	var args []string
	if err := json.Unmarshal([]byte(f.args), &args); err != nil {
		return inv, fmt.Errorf(`--args is not a JSON list of strings, as '["ReadAsset","a1"]': %w`, err)
	}
	if len(args) == 0 {
		return inv, fmt.Errorf(`--args is empty: name the function, as '["ReadAsset","a1"]'`)
	}
	for _, a := range args {
		inv.Args = append(inv.Args, []byte(a))
	}
	if f.transient != "" {
		var fields map[string]string
		if err := json.Unmarshal([]byte(f.transient), &fields); err != nil {
			return inv, fmt.Errorf("--transient is not a JSON object of strings: %w", err)
		}
		inv.Transient = map[string][]byte{}
		for k, v := range fields {
			inv.Transient[k] = []byte(v)
		}
	}
	return inv, nil
}

func chaincodeInvokeCommand() *cobra.Command {
	var f callFlags
	cmd := &cobra.Command{
		Use:     "invoke",
		Short:   "Submit a transaction through the Gateway and wait until it is committed",
		Example: `  strongroom chaincode invoke --channel main --name asset --args '["CreateAsset","a1","blue","5","Ada","100"]' --config user.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			inv, err := f.invocation()
			if err != nil {
				return err
			}
			return withPeer(cmd, f.file, func(ctx context.Context, c *client.Client) error {
				done, err := c.Submit(ctx, inv)
				return showCommitted(cmd, done, err)
			})
		},
	}
	f.add(cmd)
	return cmd
}

func chaincodeQueryCommand() *cobra.Command {
	var f callFlags
	cmd := &cobra.Command{
		Use:     "query",
		Short:   "Evaluate a transaction through the Gateway; nothing is written",
		Example: `  strongroom chaincode query --channel main --name asset --args '["ReadAsset","a1"]' --config user.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			inv, err := f.invocation()
			if err != nil {
				return err
			}
			return withPeer(cmd, f.file, func(ctx context.Context, c *client.Client) error {
				result, err := c.Evaluate(ctx, inv)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), string(result))
				return err
			})
		},
	}
	f.add(cmd)
	return cmd
}
