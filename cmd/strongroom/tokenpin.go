package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"strongroom/bccsp/pkcs11"
	profiles "strongroom/firmware-profiles"
)

// pinFlags say where the new PIN comes from.
type pinFlags struct {
	tokenFlags
	newFile, newEnv, profile string
	stdin, replace           bool
}

func tokenPINCommand() *cobra.Command {
	var f pinFlags
	cmd := &cobra.Command{
		Use:   "pin",
		Short: "Change a token's user PIN",
		Long: `Changes the user's PIN, and logs in once with the new one to see that it holds. The
old PIN is tried once. PINs come from files (mode 0600), environment variables, or
standard input (the old one and the new one, a line each), never from the command line.

Nodes that are logged in stay so, and need no restart: they read the PIN from their own
source when they must log in again. --replace puts the file with the new PIN in the
place of the one with the old PIN at once.`,
		Example: "  strongroom token pin --module M --token org1 --pin-file org1.pin --new-pin-file org1.pin.new --replace",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.change(cmd.InOrStdin()); err != nil {
				return err
			}
			result := map[string]any{"token": f.label, "changed": true, "replaced": f.replace}
			return show(cmd, result, func(w io.Writer) { fmt.Fprintf(w, "PIN of token %s is changed\n", f.label) })
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.newFile, "new-pin-file", "", "`FILE` (mode 0600) that holds the new PIN")
	cmd.Flags().StringVar(&f.newEnv, "new-pin-env", "", "environment `VARIABLE` that holds the new PIN")
	cmd.Flags().BoolVar(&f.stdin, "stdin", false, "read the old and the new PIN from standard input, a line each")
	cmd.Flags().BoolVar(&f.replace, "replace", false, "rename --new-pin-file to --pin-file when the token has the new PIN")
	cmd.Flags().StringVar(&f.profile, "profile", "", "firmware profile, `ID or FILE`, whose rules for PINs are to hold")
	return cmd
}

func (f *pinFlags) change(stdin io.Reader) error {
	if f.replace && (f.stdin || f.pinFile == "" || f.newFile == "") {
		return errors.New("--replace needs --pin-file and --new-pin-file")
	}
	before, after, err := f.read(stdin)
	defer clear(before)
	defer clear(after)
	if err != nil {
		return err
	}
	if f.profile != "" {
		p, err := profiles.Load(f.profile)
		if err != nil {
			return fmt.Errorf("--profile: %w", err)
		}
		if err := p.MayChangePIN(after); err != nil {
			return err
		}
	}
	if err := f.environment(); err != nil {
		return err
	}
	if err := pkcs11.ChangePIN(f.module, "", f.label, "", before, after); err != nil {
		return err
	}
	if !f.replace {
		return nil
	}
	if err := os.Rename(f.newFile, f.pinFile); err != nil {
		return fmt.Errorf("the token has the new PIN, and nodes that read %s must find it there: %w", f.pinFile, err)
	}
	return nil
}

// read reads both PINs. What it returns is to be wiped even with an error.
func (f *pinFlags) read(stdin io.Reader) (before, after []byte, err error) {
	if f.stdin {
		if f.pinFile != "" || f.pinEnv != "" || f.newFile != "" || f.newEnv != "" {
			return nil, nil, errors.New("--stdin stands for all other sources of PINs: give it alone")
		}
		r := bufio.NewReaderSize(stdin, 16)
		if before, err = readLine(r); err != nil {
			return before, nil, fmt.Errorf("old PIN: %w", err)
		}
		if after, err = readLine(r); err != nil {
			return before, after, fmt.Errorf("new PIN: %w", err)
		}
		return before, after, nil
	}
	if before, err = f.pin().Read(); err != nil {
		return nil, nil, fmt.Errorf("old PIN: %w", err)
	}
	if after, err = (pkcs11.PINSource{File: f.newFile, Env: f.newEnv}).Read(); err != nil {
		return before, nil, fmt.Errorf("new PIN (--new-pin-file, --new-pin-env): %w", err)
	}
	return before, after, nil
}

// maxPINLine bounds a PIN on standard input, in bytes.
const maxPINLine = 1024

func readLine(r *bufio.Reader) ([]byte, error) {
	line := make([]byte, 0, maxPINLine) // never grown, which would leave copies
	for {
		c, err := r.ReadByte()
		if err == io.EOF && len(line) > 0 || err == nil && c == '\n' {
			break
		}
		if err != nil {
			return line, fmt.Errorf("standard input: %w", err)
		}
		if len(line) == maxPINLine {
			return line, fmt.Errorf("standard input: a PIN has at most %d bytes", maxPINLine)
		}
		line = append(line, c)
	}
	line = bytes.TrimSuffix(line, []byte{'\r'})
	if len(line) == 0 {
		return line, errors.New("standard input: the line is empty")
	}
	return line, nil
}
