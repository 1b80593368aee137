package main

import (
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"strongroom/appliance"
	"strongroom/appliance/version"
	"strongroom/bccsp"
	"strongroom/bccsp/ceremony"
	"strongroom/bccsp/pkcs11"
)

// ceremonyFlags are what the operator says of a ceremony.
type ceremonyFlags struct {
	keys, witnesses, attachments []string
	curve, operator, purpose     string
}

func tokenCeremonyCommand() *cobra.Command {
	var f tokenFlags
	var c ceremonyFlags
	var out string
	cmd := &cobra.Command{
		Use:   "ceremony",
		Short: "Make keys before witnesses and write a record that the keys sign",
		Long: `Makes the named keys in the token and writes a record: who, when, the device, its
firmware and library, each key's fingerprint and what the device says of its
protection, witnesses, and files such as the device's own attestation. Each new key
signs the record (DSSE); "strongroom-audit ceremony FILE" verifies it. Read the
fingerprints out, and let the witnesses write them down.`,
		Example: "  strongroom token ceremony --module M --token org1 --pin-file pin --key peer0 --operator 'Ada Byron' --witness 'Grace Hopper' --out ceremony.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if _, err := os.Lstat(out); err == nil {
				return fmt.Errorf("--out %s is there already: a record is never overwritten", out)
			}
			attachments, err := c.files()
			if err != nil {
				return err
			}
			config, err := f.config()
			if err != nil {
				return err
			}
			token, err := appliance.OpenToken(cmd.Context(), config, nil)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, token.Close()) }()
			document, record, err := holdCeremony(cmd.Context(), token, &c, attachments, time.Now())
			if err != nil {
				return err
			}
			if err := writeNew(out, record); err != nil {
				return fmt.Errorf("the keys are made, but their record is not written: %w", err)
			}
			return show(cmd, document, func(w io.Writer) {
				fmt.Fprintf(w, "record\t%s\ndevice\t%s %s, serial %s, firmware %s\n\nKEY\tCURVE\tFINGERPRINT\n",
					out, document.Device.Manufacturer, document.Device.Model, document.Device.Serial, document.Device.Firmware)
				for _, k := range document.Keys {
					fmt.Fprintf(w, "%s\t%s\t%s\n", k.Label, k.Curve, k.Digest)
				}
			})
		},
	}
	f.add(cmd)
	flags := cmd.Flags()
	flags.StringSliceVar(&c.keys, "key", nil, "`LABEL` of a key to make; can be repeated")
	flags.StringVar(&c.curve, "curve", "P-256", "P-256 or P-384")
	flags.StringVar(&c.operator, "operator", "", "`NAME` of who runs the ceremony")
	flags.StringArrayVar(&c.witnesses, "witness", nil, "`NAME` of a witness; can be repeated")
	flags.StringVar(&c.purpose, "purpose", "", "what the keys are for")
	flags.StringArrayVar(&c.attachments, "attach", nil, "`FILE` to include, as the device's attestation; can be repeated")
	flags.StringVar(&out, "out", "ceremony.json", "`FILE` to write; must not be there yet")
	mustMark(cmd, "key", "operator")
	return cmd
}

// files reads what is attached.
func (c *ceremonyFlags) files() ([]ceremony.Attachment, error) {
	all := []ceremony.Attachment{}
	for _, file := range c.attachments {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--attach: %w", err)
		}
		all = append(all, ceremony.NewAttachment(filepath.Base(file), content))
	}
	return all, nil
}

// holdCeremony makes the keys and their signed record.
func holdCeremony(ctx context.Context, token *pkcs11.Token, c *ceremonyFlags, attachments []ceremony.Attachment, now time.Time) (*ceremony.Document, []byte, error) {
	curve, ok := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384()}[c.curve]
	if !ok {
		return nil, nil, fmt.Errorf("--curve is %q: use P-256 or P-384", c.curve)
	}
	if c.operator == "" {
		return nil, nil, errors.New("--operator is empty: name who runs the ceremony")
	}
	info := token.Info()
	digest, err := fileDigest(info.Module)
	if err != nil {
		return nil, nil, err
	}
	d := &ceremony.Document{
		Type: ceremony.DocumentType, Time: now.UTC().Truncate(time.Second), ClockSource: ceremony.ClockSource,
		Operator: c.operator, Witnesses: append([]string{}, c.witnesses...), Purpose: c.purpose,
		Device:      ceremony.Device{Label: info.Label, Serial: info.Serial, Manufacturer: info.Manufacturer, Model: info.Model, Firmware: info.Firmware, Hardware: info.Hardware},
		Library:     ceremony.Library{Description: info.Library, Version: info.LibraryVersion, Cryptoki: info.CryptokiVersion, File: info.Module, Digest: digest},
		Software:    ceremony.Software{Name: "strongroom", Version: version.Read().Version},
		Attachments: attachments,
	}
	for i, label := range c.keys {
		public, err := token.GenerateKey(ctx, label, curve)
		if err != nil {
			return nil, nil, unrecorded(c.keys[:i], err)
		}
		attributes, err := token.KeyAttributes(ctx, label)
		if err != nil {
			return nil, nil, unrecorded(c.keys[:i+1], err)
		}
		d.Keys = append(d.Keys, ceremony.NewKey(label, public, attributes))
	}
	payload, err := d.Marshal()
	if err != nil {
		return nil, nil, unrecorded(c.keys, fmt.Errorf("record: %w", err))
	}
	e := ceremony.Envelope{Payload: payload, PayloadType: ceremony.PayloadType}
	for _, k := range d.Keys {
		signer, err := token.Signer(ctx, k.Label)
		if err == nil {
			err = sign(ctx, &e, signer)
		}
		if err != nil {
			return nil, nil, unrecorded(c.keys, fmt.Errorf("key %q signs the record: %w", k.Label, err))
		}
	}
	record, err := json.MarshalIndent(&e, "", "  ")
	return d, append(record, '\n'), err
}

// unrecorded says which keys a failed ceremony leaves in the token.
func unrecorded(made []string, err error) error {
	if len(made) == 0 {
		return err
	}
	return fmt.Errorf("%w; the keys %q are in the token without a record: delete them with its vendor's tool", err, made)
}

func sign(ctx context.Context, e *ceremony.Envelope, signer *bccsp.Signer) error {
	sig, err := signer.SignStatement(ctx, e.PayloadType, e.Payload)
	if err != nil {
		return err
	}
	e.Signatures = append(e.Signatures, ceremony.Signature{KeyID: signer.PublicKey().ID().String(), Sig: sig})
	return nil
}

func fileDigest(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// writeNew writes a file that must not be there yet, durably.
func writeNew(name string, content []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
