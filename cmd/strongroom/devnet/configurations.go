package devnet

import (
	"fmt"
	"os"
	"strings"
)

// writeConfigurations writes the channel's description and one file for each
// process and each operator.
func (n *Network) writeConfigurations(mod string) error {
	files := map[string]string{"main.yaml": n.channelDescription()}
	address := func(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

	token := func(org organization) string {
		return fmt.Sprintf(`token:
  module: %s
  label: %s
  pin: {file: %s.pin}
  wrappingKey: strongroom-kek
  environment: {SOFTHSM2_CONF: %s}
`, mod, org.name, org.name, n.path(org.name, "softhsm2.conf"))
	}
	node := func(org organization, name string) string {
		return fmt.Sprintf("node:\n  name: %s.%s\n  mspId: %s\n  msp: msp\n  certificate: identities/%s.pem\n  key: %s\n", name, org.name, org.mspID, name, name)
	}
	listen := func(org organization, port, ops int) string {
		return fmt.Sprintf("listen:\n  address: %s\n  tlsCertificate: identities/%s-tls.pem\n  tlsKey: %s-tls\noperations:\n  address: %s\ndata: data\n",
			address(port), org.node, org.node, address(ops))
	}
	orderer := organizations[0]
	files["orderer/orderer.yaml"] = node(orderer, orderer.node) + token(orderer) +
		listen(orderer, n.Ports.Orderer, n.Ports.OrdererOps) + fmt.Sprintf("genesis: [%s]\n", n.path("main.block"))
	for i, org := range organizations[1:] {
		// Peers find each other by the channel's anchor peers.
		files[org.name+"/peer.yaml"] = node(org, org.node) + token(org) + listen(org, n.Ports.Peer[i], n.Ports.PeerOps[i])
		peer := fmt.Sprintf("peer:\n  address: %s\n  tlsCACert: msp/tlscacerts/tlsca.pem\n  serverName: localhost\n", address(n.Ports.Peer[i]))
		files[org.name+"/admin.yaml"] = node(org, "admin") + token(org) + peer
		gateway := fmt.Sprintf(`{
  "endpoint": %q,
  "tlsCACert": %q,
  "serverName": "localhost",
  "mspId": %q,
  "clientCert": %q,
  "clientKey": %q,
  "channel": %q,
  "chaincode": %q
}
`, address(n.Ports.Peer[i]), n.path(org.name, "msp/tlscacerts/tlsca.pem"), org.mspID,
			n.path(org.name, "identities/user.pem"), n.path(org.name, "identities/user.key"), Channel, Chaincode)
		files["gateway-"+org.name+".json"] = gateway
	}
	for name, text := range files {
		if err := os.WriteFile(n.path(strings.Split(name, "/")...), []byte(text), 0o600); err != nil {
			return err
		}
	}
	n.Processes = []*Process{n.nodeProcess(orderer, "orderer", n.Ports.OrdererOps)}
	for i, org := range organizations[1:] {
		n.Processes = append(n.Processes, n.nodeProcess(org, "peer", n.Ports.PeerOps[i]))
	}
	return os.MkdirAll(n.path("logs"), 0o700)
}

func (n *Network) nodeProcess(org organization, kind string, ops int) *Process {
	return &Process{
		Name:   org.node + "." + org.name,
		Args:   []string{n.cfg.Binary, kind, "--config", n.path(org.name, kind+".yaml")},
		Log:    n.path("logs", org.node+"."+org.name+".log"),
		Health: fmt.Sprintf("http://127.0.0.1:%d/healthz", ops),
	}
}

// channelDescription is the YAML of channel main: what `strongroom channel genesis` reads.
func (n *Network) channelDescription() string {
	organization := func(org organization, policies, endpoint string) string {
		return fmt.Sprintf(`  - name: %[1]s
    mspID: %[1]s
    mspDir: %[2]s
    policies:
%[3]s%[4]s`, org.mspID, n.path(org.name, "msp"), policies, endpoint)
	}
	peerPolicies := func(id string) string {
		return fmt.Sprintf(`      Readers: "OR('%[1]s.admin', '%[1]s.peer', '%[1]s.client')"
      Writers: "OR('%[1]s.admin', '%[1]s.client')"
      Admins: "OR('%[1]s.admin')"
      Endorsement: "OR('%[1]s.peer')"
`, id)
	}
	ordererPolicies := `      Readers: "OR('OrdererMSP.member')"
      Writers: "OR('OrdererMSP.member')"
      Admins: "OR('OrdererMSP.admin')"
`
	var b strings.Builder
	fmt.Fprintf(&b, "channel: %s\norganizations:\n", Channel)
	b.WriteString(organization(organizations[0], ordererPolicies, fmt.Sprintf("    ordererEndpoints: [\"127.0.0.1:%d\"]\n", n.Ports.Orderer)))
	for i, org := range organizations[1:] {
		b.WriteString(organization(org, peerPolicies(org.mspID), fmt.Sprintf("    anchorPeers: [\"127.0.0.1:%d\"]\n", n.Ports.Peer[i])))
	}
	b.WriteString(`orderer:
  batchTimeout: 250ms
  batchSize: {maxMessageCount: 500, absoluteMaxBytes: 99 MB, preferredMaxBytes: 2 MB}
  organizations: [OrdererMSP]
application:
  organizations: [Org1MSP, Org2MSP]
`)
	return b.String()
}
