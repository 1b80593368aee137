package lifecycle_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	net "strongroom/appliance/endorser/endorsertest"
	"strongroom/wire/lifecyclepb"
	"strongroom/wire/peerpb"
)

// TestDeployAndCall takes a chaincode through its life on a channel of two
// organisations: real gRPC, chaincode as a service, ordering and validation.
func TestDeployAndCall(t *testing.T) {
	n := net.Start(t, nil, "Org1MSP", "Org2MSP")
	id := n.Deploy(t, "kv")
	org1, org2 := n.Peers[0], n.Peers[1]
	call := net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args("put", "a", "1")}
	if code := n.Submit(t, org1.Client, call, org1, org2); code != peerpb.TxValidationCode_VALID {
		t.Fatalf("put is %s", code)
	}
	if got := org2.Query(t, org2.Client, net.Call{Channel: net.ChannelID, Chaincode: "kv", Args: net.Args("get", "a")}); string(got.GetPayload()) != "1" {
		t.Errorf("get at Org2 = %v, want 1", got)
	}
	query := func(p *net.Peer, channelID, function string, args, into proto.Message) *peerpb.Response {
		t.Helper()
		resp := p.Query(t, p.Admin, net.Lifecycle(t, channelID, function, args))
		if resp.GetStatus() == 200 {
			if err := proto.Unmarshal(resp.GetPayload(), into); err != nil {
				t.Fatal(err)
			}
		}
		return resp
	}

	t.Run("definition", func(t *testing.T) {
		var d lifecyclepb.QueryChaincodeDefinitionResult
		query(org1, net.ChannelID, "QueryChaincodeDefinition", &lifecyclepb.QueryChaincodeDefinitionArgs{Name: "kv"}, &d)
		if d.Sequence != 1 || d.Version != "1.0" || d.EndorsementPlugin != "escc" || !d.Approvals["Org1MSP"] || !d.Approvals["Org2MSP"] {
			t.Errorf("definition = %v", &d)
		}
		resp := query(org1, net.ChannelID, "QueryChaincodeDefinition", &lifecyclepb.QueryChaincodeDefinitionArgs{Name: "nix"}, &d)
		if resp.GetStatus() != 404 || resp.GetMessage() != "namespace nix is not defined" {
			t.Errorf("unknown definition = %v", resp)
		}
		var all lifecyclepb.QueryChaincodeDefinitionsResult
		query(org1, net.ChannelID, "QueryChaincodeDefinitions", &lifecyclepb.QueryChaincodeDefinitionsArgs{}, &all)
		if len(all.ChaincodeDefinitions) != 1 || all.ChaincodeDefinitions[0].GetName() != "kv" {
			t.Errorf("definitions = %v", &all)
		}
	})
	t.Run("approved", func(t *testing.T) {
		var a lifecyclepb.QueryApprovedChaincodeDefinitionResult
		query(org2, net.ChannelID, "QueryApprovedChaincodeDefinition", &lifecyclepb.QueryApprovedChaincodeDefinitionArgs{Name: "kv"}, &a)
		if a.Sequence != 1 || a.GetSource().GetLocalPackage().GetPackageId() != id {
			t.Errorf("approved = %v, want package %s", &a, id)
		}
	})
	t.Run("all approved", func(t *testing.T) {
		var a lifecyclepb.QueryApprovedChaincodeDefinitionsResult
		resp := query(org2, net.ChannelID, "QueryApprovedChaincodeDefinitions", &lifecyclepb.QueryApprovedChaincodeDefinitionsArgs{}, &a)
		if len(a.ApprovedChaincodeDefinitions) != 1 || a.ApprovedChaincodeDefinitions[0].GetName() != "kv" || a.ApprovedChaincodeDefinitions[0].GetSource().GetLocalPackage().GetPackageId() != id {
			t.Errorf("approved = %v", resp)
		}
	})
	t.Run("installed", func(t *testing.T) {
		var in lifecyclepb.QueryInstalledChaincodesResult
		query(org1, "", "QueryInstalledChaincodes", &lifecyclepb.QueryInstalledChaincodesArgs{}, &in)
		if len(in.InstalledChaincodes) != 1 || in.InstalledChaincodes[0].GetPackageId() != id {
			t.Fatalf("installed = %v", &in)
		}
		refs := in.InstalledChaincodes[0].GetReferences()[net.ChannelID].GetChaincodes()
		if len(refs) != 1 || refs[0].GetName() != "kv" || refs[0].GetVersion() != "1.0" {
			t.Errorf("references = %v", refs)
		}
		var pkg lifecyclepb.GetInstalledChaincodePackageResult
		if resp := query(org1, "", "GetInstalledChaincodePackage", &lifecyclepb.GetInstalledChaincodePackageArgs{PackageId: id}, &pkg); resp.GetStatus() != 200 || len(pkg.ChaincodeInstallPackage) == 0 {
			t.Errorf("package = %v", resp)
		}
	})
	t.Run("readiness of the next sequence", func(t *testing.T) {
		var r lifecyclepb.CheckCommitReadinessResult
		query(org1, net.ChannelID, "CheckCommitReadiness", &lifecyclepb.CheckCommitReadinessArgs{Sequence: 2, Name: "kv", Version: "2.0"}, &r)
		if r.Approvals["Org1MSP"] || len(r.Mismatches["Org1MSP"].GetItems()) != 1 {
			t.Errorf("readiness = %v", &r)
		}
	})

	refusals := []struct {
		name, function string
		channel        string
		args           proto.Message
		want           string
	}{
		{"same again", "ApproveChaincodeDefinitionForMyOrg", net.ChannelID, &lifecyclepb.ApproveChaincodeDefinitionForMyOrgArgs{Sequence: 1, Name: "kv", Version: "1.0", Source: &lifecyclepb.ChaincodeSource{Type: &lifecyclepb.ChaincodeSource_LocalPackage{LocalPackage: &lifecyclepb.ChaincodeSource_Local{PackageId: id}}}}, "attempted to redefine the current committed sequence (1) for namespace kv"},
		{"other version", "ApproveChaincodeDefinitionForMyOrg", net.ChannelID, &lifecyclepb.ApproveChaincodeDefinitionForMyOrgArgs{Sequence: 1, Name: "kv", Version: "9"}, "Version '1.0' != '9'"},
		{"sequence too high", "ApproveChaincodeDefinitionForMyOrg", net.ChannelID, &lifecyclepb.ApproveChaincodeDefinitionForMyOrgArgs{Sequence: 3, Name: "kv", Version: "1.0"}, "requested sequence 3 is larger than the next available sequence number 2"},
		{"sequence zero", "ApproveChaincodeDefinitionForMyOrg", net.ChannelID, &lifecyclepb.ApproveChaincodeDefinitionForMyOrgArgs{Name: "new", Version: "1.0"}, "first definable sequence number is 1"},
		{"name", "ApproveChaincodeDefinitionForMyOrg", net.ChannelID, &lifecyclepb.ApproveChaincodeDefinitionForMyOrgArgs{Sequence: 1, Name: "_x", Version: "1"}, "invalid chaincode name"},
		{"system name", "CommitChaincodeDefinition", net.ChannelID, &lifecyclepb.CommitChaincodeDefinitionArgs{Sequence: 1, Name: "lscc", Version: "1"}, "is the name of a system chaincode"},
		{"commit of an old sequence", "CommitChaincodeDefinition", net.ChannelID, &lifecyclepb.CommitChaincodeDefinitionArgs{Sequence: 1, Name: "kv", Version: "1.0"}, "requested sequence is 1, but new definition must be sequence 2"},
		{"commit without approval", "CommitChaincodeDefinition", net.ChannelID, &lifecyclepb.CommitChaincodeDefinitionArgs{Sequence: 2, Name: "kv", Version: "2.0"}, "chaincode definition not agreed to by this org (Org1MSP)"},
		{"install garbage", "InstallChaincode", "", &lifecyclepb.InstallChaincodeArgs{ChaincodeInstallPackage: []byte("x")}, "could not parse as a chaincode install package"},
		{"unknown function", "Fly", net.ChannelID, &lifecyclepb.QueryInstalledChaincodesArgs{}, "unknown lifecycle function"},
		{"without channel", "QueryChaincodeDefinitions", "", &lifecyclepb.QueryChaincodeDefinitionsArgs{}, "name one in the proposal"},
	}
	for _, test := range refusals {
		t.Run(test.name, func(t *testing.T) {
			resp := org1.Query(t, org1.Admin, net.Lifecycle(t, test.channel, test.function, test.args))
			if resp.GetStatus() != 500 || !strings.Contains(resp.GetMessage(), test.want) {
				t.Errorf("response = %v, want 500 with %q", resp, test.want)
			}
		})
	}
	t.Run("a client may not install", func(t *testing.T) {
		resp := org1.Query(t, org1.Client, net.Lifecycle(t, "", "InstallChaincode", &lifecyclepb.InstallChaincodeArgs{}))
		if resp.GetStatus() != 500 || !strings.Contains(resp.GetMessage(), "failed ACL check: access denied") {
			t.Errorf("response = %v", resp)
		}
	})
	t.Run("another organisation's admin may not approve", func(t *testing.T) {
		resp := org1.Query(t, org2.Admin, net.Lifecycle(t, net.ChannelID, "ApproveChaincodeDefinitionForMyOrg", &lifecyclepb.ApproveChaincodeDefinitionForMyOrgArgs{Sequence: 2, Name: "kv", Version: "2"}))
		if resp.GetStatus() != 500 || !strings.Contains(resp.GetMessage(), "access denied") {
			t.Errorf("response = %v", resp)
		}
	})
}
