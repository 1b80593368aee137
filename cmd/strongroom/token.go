package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"strongroom/appliance"
	"strongroom/appliance/config"
	"strongroom/bccsp/pkcs11"
)

// tokenFlags select a token and say how to log in, for commands without a
// configuration file.
type tokenFlags struct {
	module, label, pinFile, pinEnv, softhsm string
}

func (f *tokenFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.module, "module", "", "PKCS#11 library `FILE` of the HSM")
	flags.StringVar(&f.label, "token", "", "the token's `LABEL`")
	flags.StringVar(&f.pinFile, "pin-file", "", "`FILE` (mode 0600) that holds the user's PIN")
	flags.StringVar(&f.pinEnv, "pin-env", "", "environment `VARIABLE` that holds the user's PIN")
	flags.StringVar(&f.softhsm, "softhsm-conf", "", "SoftHSM's configuration `FILE`, if the library is SoftHSM")
	mustMark(cmd, "module", "token")
}

// config is the flags as a configuration's token section.
func (f *tokenFlags) config() (config.Token, error) {
	if (f.pinFile == "") == (f.pinEnv == "") {
		return config.Token{}, errors.New("give the PIN by either --pin-file or --pin-env")
	}
	c := config.Token{Module: f.module, Label: f.label, PIN: config.PIN{File: f.pinFile, Env: f.pinEnv}}
	if f.softhsm != "" {
		c.Environment = map[string]string{"SOFTHSM2_CONF": f.softhsm}
	}
	return c, nil
}

// pin is where the user's PIN comes from.
func (f *tokenFlags) pin() pkcs11.PINSource {
	return pkcs11.PINSource{File: f.pinFile, Env: f.pinEnv}
}

// environment sets what the library needs before it is loaded.
func (f *tokenFlags) environment() error {
	if f.softhsm == "" {
		return nil
	}
	return os.Setenv("SOFTHSM2_CONF", f.softhsm)
}

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Initialise and look at HSM tokens"}
	cmd.AddCommand(tokenInitCommand(), tokenStatusCommand(), tokenProbeCommand(), tokenCeremonyCommand(), tokenRewrapCommand(), tokenPINCommand())
	return cmd
}

func tokenInitCommand() *cobra.Command {
	var f tokenFlags
	var soPINFile, wrappingKey string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Initialise a token in a free slot, and make its wrapping key",
		Long: `Initialises the first slot whose token is not initialised yet, sets both PINs, and
makes the AES-256 key that wraps the ledger's data keys. A label that is in use is
refused: nothing is ever overwritten.`,
		Example: "  strongroom token init --module /usr/lib/softhsm/libsofthsm2.so --token org1 --pin-file pin --so-pin-file so-pin --wrapping-key strongroom-kek",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := f.config()
			if err != nil {
				return err
			}
			if err := f.environment(); err != nil {
				return err
			}
			serial, err := initToken(&f, soPINFile)
			if err != nil {
				return err
			}
			if wrappingKey != "" {
				token, err := appliance.OpenToken(cmd.Context(), c, nil)
				if err != nil {
					return err
				}
				err = errors.Join(token.GenerateWrappingKey(cmd.Context(), wrappingKey), token.Close())
				if err != nil {
					return err
				}
			}
			result := map[string]string{"label": f.label, "serial": serial, "wrappingKey": wrappingKey}
			return show(cmd, result, func(w io.Writer) {
				fmt.Fprintf(w, "token\t%s\nserial\t%s\nwrapping key\t%s\n", f.label, serial, wrappingKey)
			})
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&soPINFile, "so-pin-file", "", "`FILE` (mode 0600) that holds the security officer's PIN")
	cmd.Flags().StringVar(&wrappingKey, "wrapping-key", "", "`LABEL` of the AES-256 wrapping key to make; without it none is made")
	mustMark(cmd, "so-pin-file")
	return cmd
}

func initToken(f *tokenFlags, soPINFile string) (serial string, err error) {
	pin, err := f.pin().Read()
	if err != nil {
		return "", fmt.Errorf("user's PIN: %w", err)
	}
	defer clear(pin)
	soPIN, err := pkcs11.PINSource{File: soPINFile}.Read()
	if err != nil {
		return "", fmt.Errorf("security officer's PIN: %w", err)
	}
	defer clear(soPIN)
	return pkcs11.InitToken(f.module, f.label, soPIN, pin)
}

// tokenStatus is what `token status` prints.
type tokenStatus struct {
	Info pkcs11.Info      `json:"token"`
	Keys []pkcs11.KeyInfo `json:"keys"`
}

func tokenStatusCommand() *cobra.Command {
	var f tokenFlags
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Log in, run the self-test, and list the token's keys",
		Example: "  strongroom token status --module /usr/lib/softhsm/libsofthsm2.so --token org1 --pin-file pin",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			c, err := f.config()
			if err != nil {
				return err
			}
			token, err := appliance.OpenToken(cmd.Context(), c, nil)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, token.Close()) }()
			keys, err := token.Keys(cmd.Context())
			if err != nil {
				return err
			}
			s := tokenStatus{Info: token.Info(), Keys: keys}
			return show(cmd, s, func(w io.Writer) {
				fmt.Fprintf(w, "token\t%s\nserial\t%s\nmodel\t%s by %s, firmware %s\nlibrary\t%s %s (%s)\nself-test\tpassed\n\nKEY\tTYPE\tPROTECTED\tID\n",
					s.Info.Label, s.Info.Serial, s.Info.Model, s.Info.Manufacturer, s.Info.Firmware, s.Info.Library, s.Info.LibraryVersion, s.Info.Module)
				for _, k := range keys {
					fmt.Fprintf(w, "%s\t%s\t%t\t%s\n", k.Label, k.Type, k.Protected, k.ID)
				}
			})
		},
	}
	f.add(cmd)
	return cmd
}
