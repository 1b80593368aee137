// Business through a Strongroom peer's Gateway, done by the unmodified Fabric
// Gateway client. Prints one JSON object a line: what each step saw. The Go test
// that runs it judges them.
//
//   node scenario.mjs GATEWAY_JSON [OTHER_ORGANISATION_GATEWAY_JSON]

import * as crypto from 'node:crypto';
import * as fs from 'node:fs';
import * as path from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { connect, hash, signers, GatewayError, EndorseError } from '@hyperledger/fabric-gateway';

const utf8 = new TextDecoder();
const say = (step, seen) => process.stdout.write(JSON.stringify({ step, ...seen }) + '\n');

function open(file) {
  const c = JSON.parse(fs.readFileSync(file, 'utf8'));
  const at = (p) => path.resolve(path.dirname(file), p);
  const client = new grpc.Client(
    c.endpoint,
    grpc.credentials.createSsl(fs.readFileSync(at(c.tlsCACert))),
    { 'grpc.ssl_target_name_override': c.serverName, 'grpc.default_authority': c.serverName },
  );
  const gateway = connect({
    client,
    hash: hash.sha256,
    identity: { mspId: c.mspId, credentials: fs.readFileSync(at(c.clientCert)) },
    signer: signers.newPrivateKeySigner(crypto.createPrivateKey(fs.readFileSync(at(c.clientKey)))),
    evaluateOptions: () => ({ deadline: Date.now() + 20000 }),
    endorseOptions: () => ({ deadline: Date.now() + 30000 }),
    submitOptions: () => ({ deadline: Date.now() + 20000 }),
    commitStatusOptions: () => ({ deadline: Date.now() + 60000 }),
  });
  const network = gateway.getNetwork(c.channel);
  return { c, client, gateway, network, contract: network.getContract(c.chaincode) };
}

const one = open(process.argv[2]);
const two = process.argv[3] ? open(process.argv[3]) : undefined;
const id = 'asset-' + crypto.randomBytes(6).toString('hex');

try {
  // Events are followed from before the first transaction on.
  const chaincodeEvents = await one.network.getChaincodeEvents(one.c.chaincode);
  const blockEvents = await one.network.getBlockEvents();
  const filteredEvents = await one.network.getFilteredBlockEvents();

  await one.contract.submitTransaction('CreateAsset', id, 'blue', '5', 'Ada', '1300');
  say('submit', { id });

  const read = JSON.parse(utf8.decode(await one.contract.evaluateTransaction('ReadAsset', id)));
  say('evaluate', { asset: read });

  const other = two ?? one;
  const commit = await other.contract.submitAsync('TransferAsset', { arguments: [id, 'Grace'] });
  const status = await commit.getStatus();
  say('async', { successful: status.successful, code: status.code, block: Number(status.blockNumber), txId: status.transactionId });

  // The other peer committed it; this one may be a block behind.
  await one.gateway.newCommit(commit.getBytes()).getStatus();
  const history = JSON.parse(utf8.decode(await one.contract.evaluateTransaction('GetAssetHistory', id)));
  say('history', { entries: history.length });
  const range = JSON.parse(utf8.decode(await one.contract.evaluateTransaction('GetAssetsByRange', id, id + '~', '10', '')));
  say('range', { page: range });

  // A rich query in pages of one, until a page is not full.
  const query = JSON.stringify({ selector: { ID: { $beginsWith: id } }, sort: [{ ID: 'desc' }] });
  const found = [];
  for (let bookmark = '', count = 1; count === 1;) {
    const page = JSON.parse(utf8.decode(await one.contract.evaluateTransaction('QueryAssetsPage', query, '1', bookmark)));
    found.push(...page.Assets.map((a) => a.ID));
    ({ Bookmark: bookmark, Count: count } = page);
  }
  say('query', { found });

  // Offline signing: digest out, signature in.
  const unsigned = one.contract.newProposal('UpdateAsset', { arguments: [id, 'red', '6', 'Grace', '1400'] });
  say('offline', { digest: Buffer.from(unsigned.getDigest()).toString('hex').length });

  // A transaction that the chaincode refuses.
  try {
    await one.contract.submitTransaction('CreateAsset', id, 'blue', '5', 'Ada', '1300');
    say('failure', { refused: false });
  } catch (err) {
    say('failure', {
      refused: true,
      endorse: err instanceof EndorseError,
      gateway: err instanceof GatewayError,
      code: err.code,
      message: err.message,
      details: err.details,
    });
  }

  // Two transactions that read the same version: one of them is too late.
  const [a, b] = await Promise.all([
    one.contract.newProposal('UpdateAsset', { arguments: [id, 'green', '7', 'Grace', '1500'] }).endorse(),
    one.contract.newProposal('UpdateAsset', { arguments: [id, 'black', '8', 'Grace', '1600'] }).endorse(),
  ]);
  const states = await Promise.all([a, b].map(async (t) => (await t.submit()).getStatus()));
  say('conflict', { codes: states.map((s) => s.code).sort((x, y) => x - y) });

  let seen = 0;
  for await (const event of chaincodeEvents) {
    say('event', { name: event.eventName, txId: event.transactionId, block: Number(event.blockNumber), payload: utf8.decode(event.payload) });
    if (++seen === 2) break;
  }
  chaincodeEvents.close();
  for await (const block of blockEvents) {
    say('block', { number: block.getHeader().getNumber(), transactions: block.getData().getDataList().length });
    break;
  }
  blockEvents.close();
  for await (const block of filteredEvents) {
    const tx = block.getFilteredTransactionsList()[0];
    say('filtered', { number: block.getNumber(), channel: block.getChannelId(), code: tx.getTxValidationCode(), hasTxId: tx.getTxid().length === 64 });
    break;
  }
  filteredEvents.close();
  say('done', {});
} finally {
  for (const c of [one, two]) {
    c?.gateway.close();
    c?.client.close();
  }
}
