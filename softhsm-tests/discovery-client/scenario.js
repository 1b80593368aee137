// Service discovery against a Strongroom peer, by the unmodified DiscoveryService of
// fabric-common 2.2 (no longer developed, but what Fabric's Node SDK of that version
// uses): it asks for configuration, peers and endorsers, has the peers that it found
// endorse, and submits to the orderers that it found. Prints one JSON object a line:
// what each step saw. The Go test that runs it judges them.
//
//   node scenario.js GATEWAY_JSON
'use strict';

const fs = require('fs');
const path = require('path');
const { Client, Discoverer, IdentityContext, User } = require('fabric-common');

const say = (step, seen) => process.stdout.write(JSON.stringify({ step, ...seen }) + '\n');

async function main() {
  const file = process.argv[2];
  const c = JSON.parse(fs.readFileSync(file, 'utf8'));
  const read = (p) => fs.readFileSync(path.resolve(path.dirname(file), p), 'utf8');
  const client = new Client('discovery-client');
  client.setTlsClientCertAndKey(); // a certificate of its own, to which requests are bound
  const user = User.createUser('user', '', c.mspId, read(c.clientCert), read(c.clientKey));
  const identity = new IdentityContext(user, client);
  const channel = client.newChannel(c.channel);
  const discoverer = new Discoverer('first', client);
  await discoverer.connect(client.newEndpoint({
    url: `grpcs://${c.endpoint}`, pem: read(c.tlsCACert), 'ssl-target-name-override': c.serverName, requestTimeout: 20000,
  }));
  const discovery = channel.newDiscoveryService('discovery');

  const ask = async (request) => {
    discovery.build(identity, request);
    discovery.sign(identity);
    return discovery.send({ targets: [discoverer], requestTimeout: 20000 });
  };
  let found;
  for (const end = Date.now() + 60000; ;) { // until the peers have found each other
    try {
      found = await ask({ interest: [{ name: c.chaincode }] });
      if (Object.keys(found.peers_by_org).length > 1) break;
    } catch (error) {
      if (Date.now() > end) throw error;
    }
    await new Promise((done) => setTimeout(done, 500));
  }
  const peers = Object.values(found.peers_by_org).flatMap((org) => org.peers);
  say('found', {
    msps: Object.keys(found.msps).sort(),
    orderers: Object.values(found.orderers).flatMap((o) => o.endpoints.map((e) => `${e.host}:${e.port}`)),
    peers: peers.map((p) => ({
      msp: p.mspid, endpoint: p.endpoint, height: Number(p.ledgerHeight), chaincodes: p.chaincodes.map((x) => `${x.name} ${x.version}`),
    })),
    layouts: found.endorsement_plan.layouts.length,
    groups: Object.keys(found.endorsement_plan.groups).length,
  });

  // The whole way, on what was found.
  const endorsement = channel.newEndorsement(c.chaincode);
  const id = `found-${Date.now()}`;
  endorsement.build(identity, { fcn: 'CreateAsset', args: [id, 'blue', '5', 'Ada', '100'] });
  endorsement.sign(identity);
  const handler = discovery.newHandler();
  const answers = await endorsement.send({ handler, requestTimeout: 20000 });
  say('endorsed', {
    by: answers.responses.map((r) => r.connection.name),
    statuses: answers.responses.map((r) => r.response.status),
    messages: answers.responses.map((r) => r.response.message),
    errors: answers.errors.map((e) => e.message),
  });
  const commit = endorsement.newCommit();
  commit.build(identity);
  commit.sign(identity);
  const ordered = await commit.send({ handler, requestTimeout: 20000 });
  say('ordered', { status: ordered.status });

  // Local peers are for administrators: the whole request of a client is refused.
  let refusal = '';
  try {
    await ask({ config: false, local: true });
  } catch (error) {
    refusal = error.message;
  }
  say('refused', { message: refusal });
  discoverer.disconnect();
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
