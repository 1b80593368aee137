package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"strongroom/ledger/seal"
	"strongroom/wire/commonpb"
)

// A block is cut in two before it is sealed: its outline, which stays readable with
// the channel's keys, and the values of each namespace, which go with the
// namespace's keys. Cut out of each transaction of chaincode are
//
//	the call's arguments         protos.ChaincodeActionPayload.chaincode_proposal_payload
//	an event's name and payload  protos.ChaincodeEvent.event_name, payload
//	the answer                   protos.Response.message, payload
//	the values that it wrote     kvrwset.KVWrite.value
//	hashes of private values     kvrwset.KVWriteHash.value_hash
//
// the last two for the namespace that was written, the others for the chaincode that
// was called. Left are names, ids, versions, keys, certificates, signatures and
// hashes: what deciding on later transactions needs. Cutting works on the block's
// bytes and never writes a message again, so that joining gives the same bytes
// whatever their form. What does not parse is not cut.
//
// An outline is
//
//	number of namespaces    as a varint, as are all numbers
//	for each: its name with its length, bytes of its values
//	number of cuts
//	for each: bytes of the block before it since the last one, its length, index of its namespace
//	the block without what was cut
type outline struct {
	names   []string // of namespaces, in the order of their first value
	lengths []int    // of their values
	cuts    []cut
}

// cut is one piece of a block that belongs to a namespace.
type cut struct{ gap, length, ns int }

var errOutline = errors.New("outline of the block is not readable")

// piece is a part of a block that belongs to a namespace.
type piece struct{ at, length, ns int }

// splitter finds the pieces of one block. It is not safe for concurrent use; its
// buffers serve one block after the other.
type splitter struct {
	block  []byte
	names  []string
	index  map[string]int
	pieces []piece
	values [][]byte // of each namespace
}

// split cuts a block, a marshalled common.Block: it appends the outline to dst. The
// namespaces and their values are good until the next call.
func (s *splitter) split(dst, block []byte) (out []byte, names []string, values [][]byte) {
	s.block, s.names, s.pieces = block, s.names[:0], s.pieces[:0]
	if s.index == nil {
		s.index = map[string]int{}
	}
	clear(s.index)
	each(block, 2, func(data []byte) { // common.Block.data
		each(data, 1, s.envelope) // common.BlockData.data
	})
	byPlace := func(a, b piece) int { return a.at - b.at }
	if !slices.IsSortedFunc(s.pieces, byPlace) { // fields may come in any order
		slices.SortFunc(s.pieces, byPlace)
	}
	for len(s.values) < len(s.names) {
		s.values = append(s.values, nil)
	}
	for i := range s.names {
		s.values[i] = s.values[i][:0]
	}
	for _, p := range s.pieces {
		s.values[p.ns] = append(s.values[p.ns], block[p.at:p.at+p.length]...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(s.names)))
	for i, name := range s.names {
		dst = appendString(dst, name)
		dst = binary.AppendUvarint(dst, uint64(len(s.values[i])))
	}
	dst = binary.AppendUvarint(dst, uint64(len(s.pieces)))
	at := 0
	for _, p := range s.pieces {
		dst = binary.AppendUvarint(dst, uint64(p.at-at))
		dst = binary.AppendUvarint(dst, uint64(p.length))
		dst = binary.AppendUvarint(dst, uint64(p.ns))
		at = p.at + p.length
	}
	at = 0
	for _, p := range s.pieces {
		dst = append(dst, block[at:p.at]...)
		at = p.at + p.length
	}
	return append(dst, block[at:]...), s.names, s.values[:len(s.names)]
}

// cut notes that a part of the block is of a namespace.
func (s *splitter) cut(part []byte, ns string) {
	if len(part) == 0 || !seal.OwnKeys(ns) {
		return
	}
	i, ok := s.index[ns]
	if !ok {
		i = len(s.names)
		s.index[ns] = i
		s.names = append(s.names, ns)
	}
	// The part is a slice of the block that goes on to the block's end: how much lies
	// behind its start tells where it stands.
	s.pieces = append(s.pieces, piece{cap(s.block) - cap(part), len(part), i})
}

// each gives the occurrences of a field of bytes. It ends quietly where the message
// does not parse.
func each(b []byte, field protowire.Number, do func([]byte)) {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return
		}
		b = b[n:]
		if kind == protowire.BytesType && number == field {
			value, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return
			}
			do(value)
			b = b[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return
		}
		b = b[n:]
	}
}

// field is the last occurrence of a field of bytes: the one that counts.
func field(b []byte, number protowire.Number) (value []byte) {
	each(b, number, func(v []byte) { value = v })
	return value
}

// envelope cuts one transaction.
func (s *splitter) envelope(envelope []byte) {
	payload := field(envelope, 1)                // common.Envelope.payload
	channelHeader := field(field(payload, 1), 1) // common.Payload.header, common.Header.channel_header
	if headerType(channelHeader) != commonpb.HeaderType_ENDORSER_TRANSACTION {
		return
	}
	// common.ChannelHeader.extension, protos.ChaincodeHeaderExtension.chaincode_id, protos.ChaincodeID.name
	called := string(field(field(field(channelHeader, 7), 2), 2))
	own := func(part []byte) { s.cut(part, called) }
	each(payload, 2, func(data []byte) { // common.Payload.data
		each(data, 1, func(action []byte) { // protos.Transaction.actions
			each(action, 2, func(action []byte) { // protos.TransactionAction.payload
				each(action, 1, own)               // protos.ChaincodeActionPayload.chaincode_proposal_payload
				each(action, 2, func(end []byte) { // action
					each(end, 1, func(response []byte) { // protos.ChaincodeEndorsedAction.proposal_response_payload
						each(response, 2, func(result []byte) { // protos.ProposalResponsePayload.extension
							each(result, 1, s.results)           // protos.ChaincodeAction.results
							each(result, 2, func(event []byte) { // events
								each(event, 3, own)
								each(event, 4, own)
							})
							each(result, 3, func(answer []byte) { // response
								each(answer, 2, own)
								each(answer, 3, own)
							})
						})
					})
				})
			})
		})
	})
}

// results cuts a rwset.TxReadWriteSet.
func (s *splitter) results(results []byte) {
	each(results, 2, func(set []byte) { // ns_rwset
		ns := string(field(set, 1)) // rwset.NsReadWriteSet.namespace
		own := func(part []byte) { s.cut(part, ns) }
		each(set, 2, func(kv []byte) { // rwset
			each(kv, 3, func(write []byte) { each(write, 3, own) }) // kvrwset.KVRWSet.writes, kvrwset.KVWrite.value
		})
		each(set, 3, func(collection []byte) { // collection_hashed_rwset
			each(collection, 2, func(hashed []byte) { // rwset.CollectionHashedReadWriteSet.hashed_rwset
				each(hashed, 2, func(write []byte) { each(write, 3, own) }) // kvrwset.HashedRWSet.hashed_writes, kvrwset.KVWriteHash.value_hash
			})
		})
	})
}

func headerType(channelHeader []byte) (kind commonpb.HeaderType) {
	for b := channelHeader; len(b) > 0; {
		number, wireType, n := protowire.ConsumeTag(b)
		if n < 0 {
			return -1
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(number, wireType, b); n < 0 {
			return -1
		}
		if number == 1 && wireType == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(b)
			kind = commonpb.HeaderType(v)
		}
		b = b[n:]
	}
	return kind
}

// parseOutline reads an outline and returns what is left of the block.
func parseOutline(b []byte) (o outline, rest []byte, err error) {
	count := func() (n int) {
		v, size := binary.Uvarint(b)
		if size <= 0 || v > maxRecord {
			err = errOutline
			b = nil
			return 0
		}
		b = b[size:]
		return int(v)
	}
	for n := count(); n > 0 && err == nil; n-- {
		length := count()
		if err != nil || length > len(b) {
			return o, nil, errOutline
		}
		o.names = append(o.names, string(b[:length]))
		b = b[length:]
		o.lengths = append(o.lengths, count())
	}
	sums := make([]int, len(o.names))
	gaps := 0
	for n := count(); n > 0 && err == nil; n-- {
		c := cut{count(), count(), count()}
		if err != nil || c.ns >= len(sums) {
			return o, nil, errOutline
		}
		sums[c.ns] += c.length
		gaps += c.gap
		o.cuts = append(o.cuts, c)
	}
	if err != nil || gaps > len(b) {
		return o, nil, errOutline
	}
	for i, sum := range sums {
		if sum != o.lengths[i] || sum > maxRecord {
			return o, nil, errOutline
		}
	}
	return o, b, nil
}

// join puts a block together again. Values that are nil are replaced by zeros.
func (o *outline) join(rest []byte, values [][]byte) ([]byte, error) {
	size := len(rest)
	for i, v := range values {
		if v != nil && len(v) != o.lengths[i] {
			return nil, fmt.Errorf("%d bytes of values of namespace %q, the outline has %d", len(v), o.names[i], o.lengths[i])
		}
		size += o.lengths[i]
	}
	block := make([]byte, 0, size)
	used := make([]int, len(values))
	for _, c := range o.cuts {
		block = append(block, rest[:c.gap]...)
		rest = rest[c.gap:]
		if v := values[c.ns]; v != nil {
			block = append(block, v[used[c.ns]:used[c.ns]+c.length]...)
		} else {
			block = append(block, make([]byte, c.length)...)
		}
		used[c.ns] += c.length
	}
	return append(block, rest...), nil
}
