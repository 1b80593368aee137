package lifecycle

import (
	"errors"
	"fmt"
	"regexp"

	"google.golang.org/protobuf/proto"

	"strongroom/msp"
	"strongroom/wire/commonpb"
	"strongroom/wire/msppb"
	"strongroom/wire/peerpb"
)

// What names, versions and collection names may be: Fabric's expressions
// (core/chaincode/lifecycle/scc.go).
var (
	namePattern       = regexp.MustCompile(`^[a-zA-Z0-9]+([-_][a-zA-Z0-9]+)*$`)
	versionPattern    = regexp.MustCompile(`^[A-Za-z0-9_.+-]+$`)
	collectionPattern = regexp.MustCompile(`^[A-Za-z0-9-]+([A-Za-z0-9_-]+)*$`)
)

// reservedNames are those of Fabric's system chaincodes without a leading underscore.
var reservedNames = map[string]bool{"cscc": true, "escc": true, "lscc": true, "qscc": true, "vscc": true}

func checkName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("invalid chaincode name %q: names consist of letters and digits, with single '_' and '-' between them", name)
	}
	if reservedNames[name] {
		return fmt.Errorf("chaincode name %q is the name of a system chaincode: choose another", name)
	}
	return nil
}

func checkVersion(version string) error {
	if !versionPattern.MatchString(version) {
		return fmt.Errorf("invalid chaincode version %q: versions consist of letters, digits, '_', '-', '+' and '.'", version)
	}
	return nil
}

// members knows the organisations of a channel; *msp.Set is one.
type members interface {
	IDs() []msp.ID
}

// checkCollections applies Fabric's rules to the collections of a definition and
// to what was committed before, which may be nil.
func checkCollections(orgs members, proposed, committed *peerpb.CollectionConfigPackage) error {
	static := make(map[string]*peerpb.StaticCollectionConfig, len(proposed.GetConfig()))
	for i, c := range proposed.GetConfig() {
		coll := c.GetStaticCollectionConfig()
		if coll == nil {
			return fmt.Errorf("collection %d is empty or of an unknown type: give a static collection", i)
		}
		if err := checkCollection(orgs, coll); err != nil {
			return err
		}
		if static[coll.GetName()] != nil {
			return fmt.Errorf("collection-name: %s -- found duplicate in collection configuration", coll.GetName())
		}
		static[coll.GetName()] = coll
	}
	if len(committed.GetConfig()) > 0 && len(static) == 0 {
		return errors.New("the proposed collection config does not contain previously defined collections")
	}
	for _, c := range committed.GetConfig() {
		before := c.GetStaticCollectionConfig()
		if before == nil {
			return errors.New("the committed definition has a collection of an unknown type")
		}
		after := static[before.GetName()]
		if after == nil {
			return fmt.Errorf("existing collection [%s] missing in the proposed collection configuration", before.GetName())
		}
		if after.GetBlockToLive() != before.GetBlockToLive() {
			return fmt.Errorf("the BlockToLive in an existing collection [%s] modified. Existing value [%d]", before.GetName(), before.GetBlockToLive())
		}
	}
	return nil
}

func checkCollection(orgs members, c *peerpb.StaticCollectionConfig) error {
	name := c.GetName()
	switch {
	case !collectionPattern.MatchString(name):
		return fmt.Errorf("invalid collection name %q: names consist of letters, digits, '_' and '-' and do not begin with '_'", name)
	case c.GetMaximumPeerCount() < c.GetRequiredPeerCount():
		return fmt.Errorf("collection-name: %s -- maximum peer count (%d) cannot be less than the required peer count (%d)", name, c.GetMaximumPeerCount(), c.GetRequiredPeerCount())
	case c.GetRequiredPeerCount() < 0:
		return fmt.Errorf("collection-name: %s -- requiredPeerCount (%d) cannot be less than zero", name, c.GetRequiredPeerCount())
	}
	env := c.GetMemberOrgsPolicy().GetSignaturePolicy()
	if env == nil {
		return fmt.Errorf("collection member policy is not set for collection '%s'", name)
	}
	if err := checkOr(env.GetRule(), len(env.GetIdentities()), 0); err != nil {
		return fmt.Errorf("collection-name: %s -- error in member org policy: %w", name, err)
	}
	known := make(map[string]bool)
	for _, id := range orgs.IDs() {
		known[string(id)] = true
	}
	for _, p := range env.GetIdentities() {
		org, err := principalOrg(p)
		if err != nil {
			return fmt.Errorf("collection-name: %s -- %w", name, err)
		}
		if !known[org] {
			return fmt.Errorf("collection-name: %s -- collection member '%s' is not part of the channel", name, org)
		}
	}
	return nil
}

// checkOr refuses a policy that is more than an OR of identities: only such a
// policy says who the members of a collection are.
func checkOr(rule *commonpb.SignaturePolicy, identities, depth int) error {
	if depth > 16 {
		return errors.New("signature policy is nested deeper than 16")
	}
	switch t := rule.GetType().(type) {
	case *commonpb.SignaturePolicy_SignedBy:
		if t.SignedBy < 0 || int(t.SignedBy) >= identities {
			return fmt.Errorf("signature policy names identity %d of %d", t.SignedBy, identities)
		}
		return nil
	case *commonpb.SignaturePolicy_NOutOf_:
		if t.NOutOf.GetN() != 1 {
			return fmt.Errorf("signature policy is not an OR concatenation, NOutOf %d", t.NOutOf.GetN())
		}
		for _, r := range t.NOutOf.GetRules() {
			if err := checkOr(r, identities, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return errors.New("signature policy has a rule without a type")
}

// principalOrg is the MSP that a principal of a member policy names.
func principalOrg(p *commonpb.MSPPrincipal) (string, error) {
	switch p.GetPrincipalClassification() {
	case commonpb.MSPPrincipal_ROLE:
		var role commonpb.MSPRole
		if err := proto.Unmarshal(p.GetPrincipal(), &role); err != nil {
			return "", fmt.Errorf("role of the member policy: %w", err)
		}
		return role.GetMspIdentifier(), nil
	case commonpb.MSPPrincipal_ORGANIZATION_UNIT:
		var ou commonpb.OrganizationUnit
		if err := proto.Unmarshal(p.GetPrincipal(), &ou); err != nil {
			return "", fmt.Errorf("organizational unit of the member policy: %w", err)
		}
		return ou.GetMspIdentifier(), nil
	case commonpb.MSPPrincipal_IDENTITY:
		var id msppb.SerializedIdentity
		if err := proto.Unmarshal(p.GetPrincipal(), &id); err != nil {
			return "", fmt.Errorf("identity of the member policy: %w", err)
		}
		return id.GetMspid(), nil
	}
	return "", fmt.Errorf("principal type %v is not supported", p.GetPrincipalClassification())
}
