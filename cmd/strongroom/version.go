package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"strongroom/appliance/version"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the build's version and that of the engines in it",
		Example: "  strongroom version --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info := version.Read()
			return show(cmd, info, func(w io.Writer) {
				fmt.Fprintf(w, "strongroom\t%s\nGo\t%s\nOPA\t%s\nPKCS#11 binding\t%s\n", info.Version, info.Go, info.OPA, info.PKCS11)
			})
		},
	}
}
