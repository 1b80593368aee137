// Package lifecycle reads and writes the state of the namespace `_lifecycle`, in
// which a channel keeps its chaincode definitions and each organization's
// approvals, byte for byte as Fabric does. It performs no I/O.
//
// A definition is spread over several keys, so that a transaction writes only
// what changes. The public state holds
//
//	namespaces/metadata/NAME               StateMetadata: "ChaincodeDefinition" and its fields
//	namespaces/fields/NAME/FIELD           StateData: Sequence, EndorsementInfo, ValidationInfo, Collections
//
// and the implicit private collection of an organization holds
//
//	namespaces/metadata/NAME#SEQUENCE          "ChaincodeParameters": what it approved
//	namespaces/fields/NAME#SEQUENCE/FIELD      EndorsementInfo, ValidationInfo, Collections
//	chaincode-sources/metadata/NAME#SEQUENCE   "ChaincodeLocalPackage"
//	chaincode-sources/fields/NAME#SEQUENCE/PackageID
//
// The order of fields and the bytes of each value are consensus: endorsements of
// this peer and of Fabric's stand in one transaction, and the organizations'
// approvals are compared by their hashes. The layout is that of Fabric's
// core/chaincode/lifecycle (lifecycle.go and serializer.go).
package lifecycle

import (
	"errors"
	"fmt"
	"strings"

	"strongroom/wire/peerpb"
)

// Namespace is the system chaincode's namespace.
const Namespace = "_lifecycle"

// The plugins that a definition names unless it says otherwise, and the only ones
// that there are here.
const (
	EndorsementPlugin = "escc"
	ValidationPlugin  = "vscc"
)

const (
	namespaces = "namespaces"
	sources    = "chaincode-sources"

	typeDefinition = "ChaincodeDefinition"
	typeParameters = "ChaincodeParameters"
	typePackage    = "ChaincodeLocalPackage"

	fieldSequence    = "Sequence"
	fieldEndorsement = "EndorsementInfo"
	fieldValidation  = "ValidationInfo"
	fieldCollections = "Collections"
	fieldPackageID   = "PackageID"

	implicitPrefix = "_implicit_org_"
)

// ErrNotDefined is returned for a chaincode without a committed definition,
// ErrNotApproved for a definition that the organization has not approved, and
// ErrMalformed for state that is not a chaincode's: enough organizations can
// write anything they like to the namespace.
var (
	ErrNotDefined  = errors.New("chaincode is not defined")
	ErrNotApproved = errors.New("chaincode definition is not approved")
	ErrMalformed   = errors.New("malformed chaincode definition")
)

// Definition is a chaincode definition: what the organizations of a channel agree
// on. A value that was read must not be changed.
type Definition struct {
	Name                string
	Sequence            int64 // 1 for the first definition, one more with each redefinition
	Version             string
	InitRequired        bool // the first call must be to the chaincode's Init
	EndorsementPlugin   string
	ValidationPlugin    string
	ValidationParameter []byte // a marshalled protos.ApplicationPolicy
	Collections         *peerpb.CollectionConfigPackage
}

// Collection is the configuration of one explicit collection, or nil.
func (d *Definition) Collection(name string) *peerpb.StaticCollectionConfig {
	for _, c := range d.Collections.GetConfig() {
		if s := c.GetStaticCollectionConfig(); s != nil && s.Name == name {
			return s
		}
	}
	return nil
}

// Approval is what one organization approved.
type Approval struct {
	Definition Definition
	PackageID  string // of the package that its peers run; "" for none
}

// State reads public state. A key that is not there gives nil.
type State interface {
	Get(namespace, key string) ([]byte, error)
}

// Writer reads and writes public state, as a simulator does: what it was asked to
// read and to write becomes a read/write set.
type Writer interface {
	State
	Put(namespace, key string, value []byte) error
	Delete(namespace, key string) error
}

// PrivateWriter reads and writes private collections. A key that is not there
// gives nil.
type PrivateWriter interface {
	GetPrivate(namespace, collection, key string) ([]byte, error)
	PutPrivate(namespace, collection, key string, value []byte) error
	DeletePrivate(namespace, collection, key string) error
}

// HashedState reads the SHA-256 of private values, which every peer has. A key
// that is not there gives nil.
type HashedState interface {
	PrivateHash(namespace, collection, key string) ([]byte, error)
}

// Ranger walks the public keys from start (inclusive) to end (exclusive), in order.
type Ranger interface {
	Range(namespace, start, end string, each func(key string, value []byte) error) error
}

// OrgState is the implicit collection of one organization as a Writer, for
// ReadApproval and WriteApproval.
func OrgState(private PrivateWriter, mspID string) Writer {
	return orgState{private, ImplicitCollection(mspID)}
}

type orgState struct {
	private    PrivateWriter
	collection string
}

func (o orgState) Get(namespace, key string) ([]byte, error) {
	return o.private.GetPrivate(namespace, o.collection, key)
}

func (o orgState) Put(namespace, key string, value []byte) error {
	return o.private.PutPrivate(namespace, o.collection, key, value)
}

func (o orgState) Delete(namespace, key string) error {
	return o.private.DeletePrivate(namespace, o.collection, key)
}

// ImplicitCollection is the name of the collection that every organization has in
// every chaincode's namespace.
func ImplicitCollection(mspID string) string { return implicitPrefix + mspID }

// ImplicitOrg is the MSP id of the organization whose implicit collection this
// is; false for any other collection.
func ImplicitOrg(collection string) (mspID string, ok bool) {
	mspID, ok = strings.CutPrefix(collection, implicitPrefix)
	return mspID, ok && mspID != ""
}

// DefinedBy tells whether a write to the key changes the definition of a chaincode,
// and of which one. It is how a cache of definitions is kept right.
func DefinedBy(key string) (name string, ok bool) {
	if name, ok = strings.CutPrefix(key, namespaces+"/metadata/"); ok {
		return name, true
	}
	rest, ok := strings.CutPrefix(key, namespaces+"/fields/")
	if !ok {
		return "", false
	}
	end := strings.LastIndexByte(rest, '/')
	if end < 0 {
		return "", false
	}
	return rest[:end], true
}

func metadataKey(space, name string) string { return space + "/metadata/" + name }

func fieldKey(space, name, field string) string { return space + "/fields/" + name + "/" + field }

// approvalName is the name under which a collection keeps one approval.
func approvalName(name string, sequence int64) string { return fmt.Sprintf("%s#%d", name, sequence) }
