// Verifies Sigstore bundles of statements with Sigstore's own library:
//
//	node verify.mjs PUBLIC-KEY.pem BUNDLE.json HEADER.der [BUNDLE HEADER …]
//
// Each statement must be signed by the key and name the SHA-256 of its header.
import { createHash, createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { bundleFromJSON } from '@sigstore/bundle';
import { Verifier, toSignedEntity, toTrustMaterial } from '@sigstore/verify';

const [keyFile, ...files] = process.argv.slice(2);
const publicKey = createPublicKey(readFileSync(keyFile));
const hints = new Set();
const trust = toTrustMaterial(
  { tlogs: [], ctlogs: [], certificateAuthorities: [], timestampAuthorities: [] },
  (hint) => { hints.add(hint); return { publicKey, validFor: () => true }; },
);
const verifier = new Verifier(trust, { tlogThreshold: 0, ctlogThreshold: 0, tsaThreshold: 0 });
if (files.length === 0 || files.length % 2 !== 0) {
  throw new Error('give a header for each bundle');
}
for (let i = 0; i < files.length; i += 2) {
  const bundle = bundleFromJSON(JSON.parse(readFileSync(files[i], 'utf8')));
  verifier.verify(toSignedEntity(bundle));
  const statement = JSON.parse(bundle.content.dsseEnvelope.payload.toString('utf8'));
  const header = createHash('sha256').update(readFileSync(files[i + 1])).digest('hex');
  if (!statement.subject.some((s) => s.digest.sha256 === header)) {
    throw new Error(`${files[i]} is not about ${files[i + 1]}`);
  }
}
console.log(`verified ${files.length / 2} statements of the key ${[...hints].join(', ')}`);
