package lifecycle

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"strongroom/wire/lifecyclepb"
	"strongroom/wire/peerpb"
)

// ReadDefinition reads the committed definition of a chaincode. It returns an
// error that wraps ErrNotDefined when there is none, ErrMalformed when the state
// is not a definition, and otherwise the state's own errors.
func ReadDefinition(s State, name string) (*Definition, error) {
	metadata, err := readMetadata(s, namespaces, name)
	if err != nil {
		return nil, err
	}
	if metadata == nil {
		return nil, fmt.Errorf("%w: %q", ErrNotDefined, name)
	}
	if metadata.Datatype != typeDefinition {
		return nil, fmt.Errorf("%w: %q is a %q, not a chaincode", ErrMalformed, name, metadata.Datatype)
	}
	d := &Definition{Name: name}
	if d.Sequence, err = readInt64(s, namespaces, name, fieldSequence); err != nil {
		return nil, err
	}
	return d, d.readParameters(s, name)
}

// ReadSequence reads the sequence of the committed definition alone; 0 when there
// is none.
func ReadSequence(s State, name string) (int64, error) {
	return readInt64(s, namespaces, name, fieldSequence)
}

// readParameters fills the fields that a definition and an approval have in common.
func (d *Definition) readParameters(s State, name string) error {
	endorsement, validation := &lifecyclepb.ChaincodeEndorsementInfo{}, &lifecyclepb.ChaincodeValidationInfo{}
	d.Collections = &peerpb.CollectionConfigPackage{}
	if err := readMessage(s, namespaces, name, fieldEndorsement, endorsement); err != nil {
		return err
	}
	if err := readMessage(s, namespaces, name, fieldValidation, validation); err != nil {
		return err
	}
	if err := readMessage(s, namespaces, name, fieldCollections, d.Collections); err != nil {
		return err
	}
	d.Version, d.InitRequired, d.EndorsementPlugin = endorsement.Version, endorsement.InitRequired, endorsement.EndorsementPlugin
	d.ValidationPlugin, d.ValidationParameter = validation.ValidationPlugin, validation.ValidationParameter
	return nil
}

// parameters are the fields that a definition and an approval have in common.
func (d *Definition) parameters() ([]field, error) {
	endorsement, err1 := messageField(fieldEndorsement, &lifecyclepb.ChaincodeEndorsementInfo{
		Version: d.Version, InitRequired: d.InitRequired, EndorsementPlugin: d.EndorsementPlugin,
	})
	validation, err2 := messageField(fieldValidation, &lifecyclepb.ChaincodeValidationInfo{
		ValidationPlugin: d.ValidationPlugin, ValidationParameter: d.ValidationParameter,
	})
	collections, err3 := messageField(fieldCollections, d.Collections)
	return []field{endorsement, validation, collections}, errors.Join(err1, err2, err3)
}

// WriteDefinition commits a definition: it puts what differs from the one that is
// there. Whether the sequence is the next and who approved is the caller's to check.
func WriteDefinition(w Writer, d *Definition) error {
	sequence, err := int64Field(fieldSequence, d.Sequence)
	if err != nil {
		return err
	}
	parameters, err := d.parameters()
	if err != nil {
		return err
	}
	r := &record{datatype: typeDefinition, fields: append([]field{sequence}, parameters...)}
	return r.write(w, namespaces, d.Name)
}

// ReadApproval reads what an organization approved for a sequence, from its
// implicit collection (OrgState). It returns an error that wraps ErrNotApproved
// when there is nothing.
func ReadApproval(s State, name string, sequence int64) (*Approval, error) {
	private := approvalName(name, sequence)
	metadata, err := readMetadata(s, namespaces, private)
	if err != nil {
		return nil, err
	}
	if metadata == nil {
		return nil, fmt.Errorf("%w: %q sequence %d", ErrNotApproved, name, sequence)
	}
	if metadata.Datatype != typeParameters {
		return nil, fmt.Errorf("%w: %q is a %q, not an approval", ErrMalformed, private, metadata.Datatype)
	}
	a := &Approval{Definition: Definition{Name: name, Sequence: sequence}}
	if err := a.Definition.readParameters(s, private); err != nil {
		return nil, err
	}
	metadata, err = readMetadata(s, sources, private)
	if err != nil {
		return nil, err
	}
	if metadata == nil {
		return nil, fmt.Errorf("%w: %q sequence %d has no package", ErrNotApproved, name, sequence)
	}
	if metadata.Datatype != typePackage {
		return nil, fmt.Errorf("%w: the source of %q is a %q, not a package", ErrMalformed, private, metadata.Datatype)
	}
	a.PackageID, err = readString(s, sources, private, fieldPackageID)
	return a, err
}

// HasApproval tells whether there is an approval for a sequence, reading its
// metadata alone.
func HasApproval(s State, name string, sequence int64) (bool, error) {
	metadata, err := readMetadata(s, namespaces, approvalName(name, sequence))
	return metadata != nil, err
}

// WriteApproval writes an approval into the organization's implicit collection
// (OrgState). An empty PackageID means that its peers are not to run the chaincode.
func WriteApproval(w Writer, a *Approval) error {
	parameters, err := a.Definition.parameters()
	if err != nil {
		return err
	}
	private := approvalName(a.Definition.Name, a.Definition.Sequence)
	r := &record{datatype: typeParameters, fields: parameters}
	if err := r.write(w, namespaces, private); err != nil {
		return err
	}
	id, err := stringField(fieldPackageID, a.PackageID)
	if err != nil {
		return err
	}
	r = &record{datatype: typePackage, fields: []field{id}}
	return r.write(w, sources, private)
}

// Comparison says in which parts an organization's approval agrees with a
// definition.
type Comparison struct {
	Approved        bool // the organization approved something for the sequence
	EndorsementInfo bool // version, init required and endorsement plugin
	ValidationInfo  bool // validation plugin and parameter
	Collections     bool
}

// Agrees tells whether the organization approved exactly the definition.
func (c Comparison) Agrees() bool {
	return c.Approved && c.EndorsementInfo && c.ValidationInfo && c.Collections
}

// Mismatches names what differs, in the words of Fabric's answer to `peer lifecycle
// chaincode checkcommitreadiness --inspect`; nil when nothing does.
func (c Comparison) Mismatches() []string {
	if !c.Approved {
		return []string{"ChaincodeParameters (Check the Sequence, ChaincodeName)"}
	}
	var items []string
	if !c.EndorsementInfo {
		items = append(items, "EndorsementInfo (Check the Version, InitRequired, EndorsementPlugin)")
	}
	if !c.ValidationInfo {
		items = append(items, "ValidationInfo (Check the ValidationParameter, ValidationPlugin)")
	}
	if !c.Collections {
		items = append(items, "Collections (Check the Collections)")
	}
	return items
}

// Compare compares a definition with what an organization approved for its
// sequence, by the hashes that every peer has. It reads the hashes of all four
// keys, whatever they are.
func Compare(h HashedState, mspID string, d *Definition) (Comparison, error) {
	var c Comparison
	parameters, err := d.parameters()
	if err != nil {
		return c, err
	}
	r := &record{datatype: typeParameters, fields: parameters}
	metadata, err := r.metadata()
	if err != nil {
		return c, err
	}
	collection, private := ImplicitCollection(mspID), approvalName(d.Name, d.Sequence)
	equal := func(key string, value []byte) bool {
		hash, e := h.PrivateHash(Namespace, collection, key)
		if e != nil {
			err = errors.Join(err, e)
		}
		want := sha256.Sum256(value)
		return bytes.Equal(hash, want[:])
	}
	c.Approved = equal(metadataKey(namespaces, private), metadata)
	c.EndorsementInfo = equal(fieldKey(namespaces, private, fieldEndorsement), parameters[0].value)
	c.ValidationInfo = equal(fieldKey(namespaces, private, fieldValidation), parameters[1].value)
	c.Collections = equal(fieldKey(namespaces, private, fieldCollections), parameters[2].value)
	return c, err
}

// SameParameters tells whether two definitions agree in all but their names and
// sequences.
func (d *Definition) SameParameters(other *Definition) bool {
	return d.Version == other.Version &&
		d.InitRequired == other.InitRequired &&
		d.EndorsementPlugin == other.EndorsementPlugin &&
		d.ValidationPlugin == other.ValidationPlugin &&
		bytes.Equal(d.ValidationParameter, other.ValidationParameter) &&
		proto.Equal(orEmpty(d.Collections), orEmpty(other.Collections))
}

func orEmpty(c *peerpb.CollectionConfigPackage) *peerpb.CollectionConfigPackage {
	if c == nil {
		return &peerpb.CollectionConfigPackage{}
	}
	return c
}

// Names lists the chaincodes that are defined, in the order of their names. The
// bounds of the range are Fabric's: in a simulation they become part of what is
// signed.
func Names(r Ranger) ([]string, error) {
	prefix := metadataKey(namespaces, "")
	var names []string
	err := r.Range(Namespace, prefix, prefix+"\x7f", func(key string, value []byte) error {
		m := &lifecyclepb.StateMetadata{}
		if err := proto.Unmarshal(value, m); err != nil {
			return fmt.Errorf("%w: metadata key %q: %w", ErrMalformed, key, err)
		}
		if m.Datatype == typeDefinition {
			names = append(names, key[len(prefix):])
		}
		return nil
	})
	return names, err
}
