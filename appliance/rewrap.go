package appliance

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"strongroom/appliance/config"
	"strongroom/bccsp/pkcs11"
	"strongroom/ledger/seal"
)

// Rewrap wraps all data keys of a node that is stopped with the wrapping key of a label
// in the same token, which it makes when it is not there, and returns how many there
// are; 0 when that was done before. Afterwards the node's configuration must name that
// label: with the old one it is refused. A node that runs gives an error that wraps
// seal.ErrInUse.
func Rewrap(ctx context.Context, data string, own config.Token, verifiers []config.Token, label string) (n int, err error) {
	if err := harden(); err != nil {
		return 0, err
	}
	keeper := own
	for _, c := range verifiers {
		if c.WrappingKey != "" {
			keeper = c
		}
	}
	if keeper.WrappingKey == "" {
		return 0, errors.New("token.wrappingKey is empty: name the wrapping key with which the data keys are wrapped now")
	}
	if keeper.WrappingKey == label {
		return 0, fmt.Errorf("token.wrappingKey is %q already: give the label of a new wrapping key", label)
	}
	from, err := OpenToken(ctx, keeper, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	keeper.WrappingKey = label
	to, err := OpenToken(ctx, keeper, nil)
	if errors.Is(err, pkcs11.ErrKeyNotFound) {
		if err := from.GenerateWrappingKey(ctx, label); err != nil {
			return 0, err
		}
		to, err = OpenToken(ctx, keeper, nil)
	}
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	n, err = seal.Rewrap(ctx, filepath.Join(data, "keyring"), from, to)
	if errors.Is(err, seal.ErrInUse) {
		return 0, fmt.Errorf("%w: stop the node first", err)
	}
	return n, err
}
