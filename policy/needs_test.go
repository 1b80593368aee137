package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"strongroom/wire/commonpb"
)

func TestOrganizations(t *testing.T) {
	principals := []*commonpb.MSPPrincipal{
		rolePrincipal("Org1MSP", peer), rolePrincipal("Org2MSP", peer), rolePrincipal("Org3MSP", peer), rolePrincipal("Org1MSP", admin),
		{PrincipalClassification: commonpb.MSPPrincipal_ANONYMITY},
	}
	for name, c := range map[string]struct {
		rule          *commonpb.SignaturePolicy
		named, needed []string
	}{
		"and":                       {outOf(2, signedBy(0), signedBy(1)), []string{"Org1MSP", "Org2MSP"}, []string{"Org1MSP", "Org2MSP"}},
		"or":                        {outOf(1, signedBy(0), signedBy(1)), []string{"Org1MSP", "Org2MSP"}, nil},
		"one, and one of two":       {outOf(2, signedBy(0), outOf(1, signedBy(1), signedBy(2))), []string{"Org1MSP", "Org2MSP", "Org3MSP"}, []string{"Org1MSP"}},
		"two of three":              {outOf(2, signedBy(0), signedBy(1), signedBy(2)), []string{"Org1MSP", "Org2MSP", "Org3MSP"}, nil},
		"either role of one":        {outOf(1, signedBy(0), signedBy(3)), []string{"Org1MSP"}, []string{"Org1MSP"}},
		"nobody":                    {outOf(0, signedBy(0)), []string{"Org1MSP"}, nil},
		"never":                     {outOf(3, signedBy(0), signedBy(1)), []string{"Org1MSP", "Org2MSP"}, []string{"Org1MSP", "Org2MSP"}},
		"whoever anonymity may fit": {outOf(2, signedBy(0), signedBy(4)), []string{"Org1MSP"}, []string{"Org1MSP"}},
	} {
		named, needed, err := Organizations(&commonpb.SignaturePolicyEnvelope{Rule: c.rule, Identities: principals})
		if err != nil || !cmp.Equal(named, c.named) || !cmp.Equal(needed, c.needed) {
			t.Errorf("%s: named %v, needed %v, %v", name, named, needed, err)
		}
	}
	if _, _, err := Organizations(&commonpb.SignaturePolicyEnvelope{Rule: signedBy(7)}); err == nil {
		t.Error("a policy that does not compile")
	}
}
