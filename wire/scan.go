package wire

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// errNotProto is returned for bytes that are not a protobuf message.
var errNotProto = errors.New("not a protobuf message")

// scan walks the length-delimited fields 1 and 2 of a message, which are all that
// the messages between an envelope and its read/write set have, and gives each
// occurrence to field. The values alias b; an empty one is nil, as in a message of
// proto3, which does not tell a field that is empty from one that is absent.
//
// It accepts and refuses the same bytes as proto.Unmarshal does: other fields,
// and these fields with another wire type, are unknown ones and are passed over.
// FuzzScan holds it to that. What it saves is a copy of each transaction for
// each of the five messages that lie around its read/write set.
func scan(b []byte, field func(number protowire.Number, value []byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 || number > protowire.MaxValidNumber {
			return errNotProto
		}
		b = b[n:]
		if kind != protowire.BytesType || number > 2 {
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return errNotProto
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return errNotProto
		}
		value = value[:len(value):len(value)]
		if len(value) == 0 {
			value = nil
		}
		if err := field(number, value); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// scanTwo reads a message of two bytes fields into first and second, which keep
// what they hold when the field is absent.
func scanTwo(b []byte, first, second *[]byte) error {
	return scan(b, func(number protowire.Number, value []byte) error {
		if number == 1 {
			*first = value
		} else {
			*second = value
		}
		return nil
	})
}
