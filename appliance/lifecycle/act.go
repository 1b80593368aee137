package lifecycle

import (
	"crypto/sha256"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"

	"strongroom/appliance/endorser"
	"strongroom/ledger/auditlog"
	"strongroom/wire/lifecyclepb"
)

// actOf is the administrative act that a call is, nil for a query. Approvals and commits
// are this peer's part in them: the transaction that follows is in the ledger.
func actOf(call *endorser.Call) *auditlog.Act {
	a := &auditlog.Act{Actor: call.Creator.String(), Details: map[string]string{}}
	if call.ChannelID != "" {
		a.Details["channel"] = call.ChannelID
	}
	define := func(name, version string, sequence int64) {
		a.Subject, a.Details["version"], a.Details["sequence"] = name, version, strconv.FormatInt(sequence, 10)
	}
	switch call.Function() {
	case "InstallChaincode":
		a.Name = "chaincode.install"
		args := &lifecyclepb.InstallChaincodeArgs{}
		if proto.Unmarshal(call.Args[1], args) == nil {
			a.Details["sha256"] = fmt.Sprintf("%x", sha256.Sum256(args.GetChaincodeInstallPackage()))
		}
	case "ApproveChaincodeDefinitionForMyOrg":
		a.Name = "chaincode.approve"
		args := &lifecyclepb.ApproveChaincodeDefinitionForMyOrgArgs{}
		if proto.Unmarshal(call.Args[1], args) == nil {
			define(args.GetName(), args.GetVersion(), args.GetSequence())
			a.Details["package"] = args.GetSource().GetLocalPackage().GetPackageId()
		}
	case "CommitChaincodeDefinition":
		a.Name = "chaincode.commit"
		args := &lifecyclepb.CommitChaincodeDefinitionArgs{}
		if proto.Unmarshal(call.Args[1], args) == nil {
			define(args.GetName(), args.GetVersion(), args.GetSequence())
		}
	default:
		return nil
	}
	return a
}
