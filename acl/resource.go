package acl

import (
	"slices"
	"strings"
)

// Resource is Fabric's name of something that a caller may be allowed to use, as
// the ACLs of a channel configuration write it.
type Resource string

// The resources of a Fabric 3 peer (core/aclmgmt/resources), and five of our own for
// what has none in Fabric: service discovery, the ordering service, and submission
// through the gateway.
const (
	ResourceProposePropose       Resource = "peer/Propose"
	ResourceChaincodeToChaincode Resource = "peer/ChaincodeToChaincode"

	ResourceEventBlock             Resource = "event/Block"
	ResourceEventFilteredBlock     Resource = "event/FilteredBlock"
	ResourceGatewayCommitStatus    Resource = "gateway/CommitStatus"
	ResourceGatewayChaincodeEvents Resource = "gateway/ChaincodeEvents"

	ResourceLifecycleInstall              Resource = "_lifecycle/InstallChaincode"
	ResourceLifecycleQueryInstalled       Resource = "_lifecycle/QueryInstalledChaincode"
	ResourceLifecycleGetInstalledPackage  Resource = "_lifecycle/GetInstalledChaincodePackage"
	ResourceLifecycleQueryAllInstalled    Resource = "_lifecycle/QueryInstalledChaincodes"
	ResourceLifecycleApprove              Resource = "_lifecycle/ApproveChaincodeDefinitionForMyOrg"
	ResourceLifecycleQueryApproved        Resource = "_lifecycle/QueryApprovedChaincodeDefinition"
	ResourceLifecycleQueryAllApproved     Resource = "_lifecycle/QueryApprovedChaincodeDefinitions"
	ResourceLifecycleCommit               Resource = "_lifecycle/CommitChaincodeDefinition"
	ResourceLifecycleQueryDefinition      Resource = "_lifecycle/QueryChaincodeDefinition"
	ResourceLifecycleQueryDefinitions     Resource = "_lifecycle/QueryChaincodeDefinitions"
	ResourceLifecycleCheckCommitReadiness Resource = "_lifecycle/CheckCommitReadiness"
	ResourceSnapshotSubmit                Resource = "snapshot/submitrequest"
	ResourceSnapshotCancel                Resource = "snapshot/cancelrequest"
	ResourceSnapshotListPending           Resource = "snapshot/listpending"
	ResourceQSCCGetChainInfo              Resource = "qscc/GetChainInfo"
	ResourceQSCCGetBlockByNumber          Resource = "qscc/GetBlockByNumber"
	ResourceQSCCGetBlockByHash            Resource = "qscc/GetBlockByHash"
	ResourceQSCCGetTransactionByID        Resource = "qscc/GetTransactionByID"
	ResourceQSCCGetBlockByTxID            Resource = "qscc/GetBlockByTxID"
	ResourceCSCCJoinChain                 Resource = "cscc/JoinChain"
	ResourceCSCCJoinChainBySnapshot       Resource = "cscc/JoinChainBySnapshot"
	ResourceCSCCJoinBySnapshotStatus      Resource = "cscc/JoinBySnapshotStatus"
	ResourceCSCCGetChannels               Resource = "cscc/GetChannels"
	ResourceCSCCGetConfigBlock            Resource = "cscc/GetConfigBlock"
	ResourceCSCCGetChannelConfig          Resource = "cscc/GetChannelConfig"
	ResourceLSCCInstall                   Resource = "lscc/Install"
	ResourceLSCCGetInstalledChaincodes    Resource = "lscc/GetInstalledChaincodes"
	ResourceLSCCDeploy                    Resource = "lscc/Deploy"
	ResourceLSCCUpgrade                   Resource = "lscc/Upgrade"
	ResourceLSCCChaincodeExists           Resource = "lscc/ChaincodeExists"
	ResourceLSCCGetDeploymentSpec         Resource = "lscc/GetDeploymentSpec"
	ResourceLSCCGetChaincodeData          Resource = "lscc/GetChaincodeData"
	ResourceLSCCGetInstantiatedChaincodes Resource = "lscc/GetInstantiatedChaincodes"
	ResourceLSCCGetCollectionsConfig      Resource = "lscc/GetCollectionsConfig"

	ResourceDiscoveryChannel Resource = "discovery/Channel" // Strongroom's name: Fabric asks /Channel/Application/Writers
	ResourceDiscoveryLocal   Resource = "discovery/Local"   // Strongroom's name: Fabric asks the Admins of the peer's MSP

	ResourceGatewaySubmit    Resource = "gateway/Submit"    // Strongroom's name: Fabric asks the ordering service's policy alone
	ResourceOrdererBroadcast Resource = "orderer/Broadcast" // Strongroom's name: Fabric asks /Channel/Writers
	ResourceOrdererDeliver   Resource = "orderer/Deliver"   // Strongroom's name: Fabric asks /Channel/Readers
)

const (
	appReaders = "/Channel/Application/Readers"
	appWriters = "/Channel/Application/Writers"
)

// localPolicy is who of the node's own organisation may use a resource that is not
// a channel's.
type localPolicy uint8

const (
	localMembers localPolicy = iota + 1
	localAdmins
)

// String is Fabric's name of the policy.
func (p localPolicy) String() string {
	if p == localAdmins {
		return "Admins"
	}
	return "Members"
}

// localDefaults are the resources of the node itself. A channel's ACLs have no say
// in them, even where a call names a channel (core/aclmgmt: IsPtypePolicy).
var localDefaults = map[Resource]localPolicy{
	ResourceLifecycleInstall:             localAdmins,
	ResourceLifecycleQueryInstalled:      localAdmins,
	ResourceLifecycleGetInstalledPackage: localAdmins,
	ResourceLifecycleQueryAllInstalled:   localAdmins,
	ResourceLifecycleApprove:             localAdmins,
	ResourceLifecycleQueryApproved:       localAdmins,
	ResourceLifecycleQueryAllApproved:    localAdmins,
	ResourceSnapshotSubmit:               localAdmins,
	ResourceSnapshotCancel:               localAdmins,
	ResourceSnapshotListPending:          localAdmins,
	ResourceCSCCJoinChain:                localAdmins,
	ResourceCSCCJoinChainBySnapshot:      localAdmins,
	ResourceCSCCJoinBySnapshotStatus:     localAdmins,
	ResourceCSCCGetChannels:              localMembers,
	ResourceDiscoveryLocal:               localAdmins,
	ResourceLSCCInstall:                  localAdmins,
	ResourceLSCCGetInstalledChaincodes:   localAdmins,
}

// channelDefaults are the policies of a channel's resources where its ACLs do not
// name others. lscc/Deploy and lscc/Upgrade have none in Fabric either: without an
// ACL they are denied.
var channelDefaults = map[Resource]string{
	ResourceProposePropose:                appWriters,
	ResourceChaincodeToChaincode:          appWriters,
	ResourceEventBlock:                    appReaders,
	ResourceEventFilteredBlock:            appReaders,
	ResourceGatewayCommitStatus:           appReaders,
	ResourceGatewayChaincodeEvents:        appReaders,
	ResourceLifecycleCommit:               appWriters,
	ResourceLifecycleQueryDefinition:      appWriters,
	ResourceLifecycleQueryDefinitions:     appWriters,
	ResourceLifecycleCheckCommitReadiness: appWriters,
	ResourceQSCCGetChainInfo:              appReaders,
	ResourceQSCCGetBlockByNumber:          appReaders,
	ResourceQSCCGetBlockByHash:            appReaders,
	ResourceQSCCGetTransactionByID:        appReaders,
	ResourceQSCCGetBlockByTxID:            appReaders,
	ResourceCSCCGetConfigBlock:            appReaders,
	ResourceCSCCGetChannelConfig:          appReaders,
	ResourceLSCCChaincodeExists:           appReaders,
	ResourceLSCCGetDeploymentSpec:         appReaders,
	ResourceLSCCGetChaincodeData:          appReaders,
	ResourceLSCCGetInstantiatedChaincodes: appReaders,
	ResourceLSCCGetCollectionsConfig:      appReaders,
	ResourceDiscoveryChannel:              appWriters,
	ResourceGatewaySubmit:                 "/Channel/Writers",
	ResourceOrdererBroadcast:              "/Channel/Writers",
	ResourceOrdererDeliver:                "/Channel/Readers",
}

// DefaultPolicy is the policy that decides about a resource unless a channel's ACLs
// name another: a path such as "/Channel/Application/Writers", or "Admins" or
// "Members" of the node's own MSP for a resource of the node itself. It is "" for a
// resource that nothing is known about.
func (r Resource) DefaultPolicy() string {
	if p, ok := localDefaults[r]; ok {
		return p.String()
	}
	return channelDefaults[r]
}

// Local tells whether the resource is the node's own rather than a channel's.
func (r Resource) Local() bool { return localDefaults[r] != 0 }

// ordering tells whether the resource is the ordering service's.
func (r Resource) ordering() bool { return strings.HasPrefix(string(r), "orderer/") }

// Resources lists all resources that have a default policy, sorted.
func Resources() []Resource {
	var all []Resource
	for r := range localDefaults {
		all = append(all, r)
	}
	for r := range channelDefaults {
		all = append(all, r)
	}
	slices.Sort(all)
	return all
}
