package statements

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"strongroom/appliance/endorser"
	"strongroom/ledger/provenance"
	"strongroom/ledger/translog"
	"strongroom/wire/peerpb"
)

// InclusionProof is the answer to GetInclusionProof, in JSON: hashes in base64, from
// the leaf up.
type InclusionProof struct {
	Index  uint64   `json:"index"` // of the statement in the log
	Size   uint64   `json:"size"`
	Hashes [][]byte `json:"hashes"`
}

// ConsistencyProof is the answer to GetConsistencyProof, in JSON.
type ConsistencyProof struct {
	Old    uint64   `json:"old"`
	Size   uint64   `json:"size"`
	Hashes [][]byte `json:"hashes"`
}

// checkpoint answers GetCheckpoint CHANNEL: a signed note over all statements there
// are now.
func (s *Service) checkpoint(ctx context.Context, call *endorser.Call) (*peerpb.Response, error) {
	log, ok := s.cfg.Channel(call.ChannelID)
	if !ok {
		return endorser.Failure("channel %q has no statements", call.ChannelID), nil
	}
	note, err := log.Checkpoint(ctx)
	if errors.Is(err, provenance.ErrNotFound) {
		return endorser.Failure("channel %q has no statement yet", call.ChannelID), nil
	}
	if err != nil {
		return nil, err
	}
	return endorser.Success(note), nil
}

// proof answers GetInclusionProof CHANNEL NUMBER SIZE and GetConsistencyProof CHANNEL
// OLD SIZE.
func (s *Service) proof(call *endorser.Call) (*peerpb.Response, error) {
	if len(call.Args) != 4 {
		return endorser.Failure("give two numbers, as %s main 7 12", call.Function()), nil
	}
	var numbers [2]uint64
	for i, arg := range call.Args[2:] {
		var err error
		if numbers[i], err = strconv.ParseUint(string(arg), 10, 64); err != nil {
			return endorser.Failure("%q is not a number", arg), nil
		}
	}
	log, ok := s.cfg.Channel(call.ChannelID)
	if !ok {
		return endorser.Failure("channel %q has no statements", call.ChannelID), nil
	}
	var (
		answer any
		hashes []translog.Hash
		index  uint64
		err    error
	)
	if call.Function() == "GetInclusionProof" {
		index, hashes, err = log.InclusionProof(numbers[0], numbers[1])
		answer = InclusionProof{Index: index, Size: numbers[1], Hashes: raw(hashes)}
	} else {
		hashes, err = log.ConsistencyProof(numbers[0], numbers[1])
		answer = ConsistencyProof{Old: numbers[0], Size: numbers[1], Hashes: raw(hashes)}
	}
	if errors.Is(err, provenance.ErrNotFound) || errors.Is(err, provenance.ErrSize) {
		return endorser.Failure("%v", err), nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", call.Function(), err)
	}
	payload, err := json.Marshal(answer)
	return endorser.Success(payload), err
}

func raw(hashes []translog.Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}
