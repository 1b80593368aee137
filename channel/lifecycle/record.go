package lifecycle

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/lifecyclepb"
)

// record is a structure as state keeps it: a metadata key that names its type and
// its fields, and one key for each field.
type record struct {
	datatype string
	fields   []field // in the order of the metadata, which is consensus
}

type field struct {
	name  string
	value []byte // a marshalled lifecycle.StateData
}

func (r *record) metadata() ([]byte, error) {
	m := &lifecyclepb.StateMetadata{Datatype: r.datatype}
	for _, f := range r.fields {
		m.Fields = append(m.Fields, f.name)
	}
	return proto.Marshal(m)
}

// write puts the fields that differ from the state and the metadata if it is not
// there, and deletes the fields of a former layout. It reads exactly the keys that
// Fabric's serializer reads: the read set is signed, too.
func (r *record) write(w Writer, space, name string) error {
	metadata, err := readMetadata(w, space, name)
	if err != nil {
		return err
	}
	old := map[string][]byte{}
	for _, f := range metadata.GetFields() {
		key := fieldKey(space, name, f)
		if old[key], err = w.Get(Namespace, key); err != nil {
			return err
		}
	}
	for _, f := range r.fields {
		key := fieldKey(space, name, f.name)
		if was, ok := old[key]; !ok || !bytes.Equal(was, f.value) {
			if err := w.Put(Namespace, key, f.value); err != nil {
				return err
			}
		}
		delete(old, key)
	}
	if len(old) > 0 || metadata.GetDatatype() != r.datatype || len(metadata.GetFields()) != len(r.fields) {
		value, err := r.metadata()
		if err != nil {
			return err
		}
		if err := w.Put(Namespace, metadataKey(space, name), value); err != nil {
			return err
		}
	}
	for key := range old {
		if err := w.Delete(Namespace, key); err != nil {
			return err
		}
	}
	return nil
}

// readMetadata reads a record's metadata; nil when there is none.
func readMetadata(s State, space, name string) (*lifecyclepb.StateMetadata, error) {
	value, err := s.Get(Namespace, metadataKey(space, name))
	if err != nil || value == nil {
		return nil, err
	}
	m := &lifecyclepb.StateMetadata{}
	if err := proto.Unmarshal(value, m); err != nil {
		return nil, fmt.Errorf("%w: metadata of %q: %w", ErrMalformed, name, err)
	}
	return m, nil
}

// readField reads one field's data. A key that is not there reads as a StateData
// with no type, which the as functions turn into a zero value.
func readField(s State, space, name, field string) (*lifecyclepb.StateData, error) {
	value, err := s.Get(Namespace, fieldKey(space, name, field))
	if err != nil {
		return nil, err
	}
	data := &lifecyclepb.StateData{}
	if err := proto.Unmarshal(value, data); err != nil {
		return nil, fmt.Errorf("%w: %s of %q: %w", ErrMalformed, field, name, err)
	}
	return data, nil
}

func readInt64(s State, space, name, field string) (int64, error) {
	data, err := readField(s, space, name, field)
	if err != nil {
		return 0, err
	}
	switch v := data.Type.(type) {
	case nil:
		return 0, nil
	case *lifecyclepb.StateData_Int64:
		return v.Int64, nil
	}
	return 0, fmt.Errorf("%w: %s of %q is not a number", ErrMalformed, field, name)
}

func readString(s State, space, name, field string) (string, error) {
	data, err := readField(s, space, name, field)
	if err != nil {
		return "", err
	}
	switch v := data.Type.(type) {
	case nil:
		return "", nil
	case *lifecyclepb.StateData_String_:
		return v.String_, nil
	}
	return "", fmt.Errorf("%w: %s of %q is not a string", ErrMalformed, field, name)
}

func readMessage(s State, space, name, field string, into proto.Message) error {
	data, err := readField(s, space, name, field)
	if err != nil {
		return err
	}
	switch v := data.Type.(type) {
	case nil:
		return nil
	case *lifecyclepb.StateData_Bytes:
		if err := proto.Unmarshal(v.Bytes, into); err != nil {
			return fmt.Errorf("%w: %s of %q: %w", ErrMalformed, field, name, err)
		}
		return nil
	}
	return fmt.Errorf("%w: %s of %q is not a message", ErrMalformed, field, name)
}

func int64Field(name string, value int64) (field, error) {
	return dataField(name, &lifecyclepb.StateData{Type: &lifecyclepb.StateData_Int64{Int64: value}})
}

func stringField(name, value string) (field, error) {
	return dataField(name, &lifecyclepb.StateData{Type: &lifecyclepb.StateData_String_{String_: value}})
}

// messageField holds a message's bytes; a nil message gives an empty value.
func messageField(name string, message proto.Message) (field, error) {
	value, err := proto.Marshal(message)
	if err != nil {
		return field{}, fmt.Errorf("%s: %w", name, err)
	}
	return dataField(name, &lifecyclepb.StateData{Type: &lifecyclepb.StateData_Bytes{Bytes: value}})
}

func dataField(name string, data *lifecyclepb.StateData) (field, error) {
	value, err := proto.Marshal(data)
	if err != nil {
		return field{}, fmt.Errorf("%s: %w", name, err)
	}
	return field{name: name, value: value}, nil
}
