package statements

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"

	"strongroom/appliance/endorser"
	"strongroom/ledger/provenance"
	"strongroom/wire/peerpb"
)

// sign answers SignPack CHANNEL FROM TO SHA256: a statement that the caller asked for
// an evidence pack of these blocks whose SHA256SUMS has this digest, in hex. It names
// the caller, so it is not for chaincode.
func (s *Service) sign(ctx context.Context, call *endorser.Call) (*peerpb.Response, error) {
	if call.Nested {
		return endorser.Failure("SignPack is not for chaincode"), nil
	}
	if len(call.Args) != 5 {
		return endorser.Failure("give the range and the digest, as SignPack main 0 7 9f86…"), nil
	}
	from, errFrom := strconv.ParseUint(string(call.Args[2]), 10, 64)
	to, errTo := strconv.ParseUint(string(call.Args[3]), 10, 64)
	digest, errDigest := hex.DecodeString(string(call.Args[4]))
	if errFrom != nil || errTo != nil || errDigest != nil || len(digest) != sha256.Size {
		return endorser.Failure("SignPack needs two block numbers and a SHA-256 in hex"), nil
	}
	log, ok := s.cfg.Channel(call.ChannelID)
	if !ok {
		return endorser.Failure("channel %q has no statements", call.ChannelID), nil
	}
	bundle, err := log.SignPack(ctx, [sha256.Size]byte(digest), from, to, provenance.IdentityOf(string(call.Creator.MSPID), call.Creator.Certificate))
	if errors.Is(err, provenance.ErrNotFound) {
		return endorser.Failure("%v", err), nil
	}
	if err != nil {
		return nil, err
	}
	return endorser.Success(bundle), nil
}
