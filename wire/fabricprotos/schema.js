// Reads the message definitions out of the npm package @hyperledger/fabric-protos
// and prints them as JSON: the messages, enums and services of Fabric's wire, as
// its own JavaScript clients know them. The Go test beside this file compares
// them with our descriptors.
//
//   node schema.js PATH_OF_FABRIC_PROTOS_LIB
//
// The package holds no descriptors. Each accessor of its generated code states
// its field in a comment ("optional bytes payload = 1;"), each enum is an object
// literal, and each service is an exported definition with its path.
'use strict';

const fs = require('fs');
const path = require('path');

const lib = process.argv[2];
const messages = {};
const enums = {};
const services = {};

function files(dir) {
  return fs.readdirSync(dir, { withFileTypes: true }).flatMap((e) => {
    const p = path.join(dir, e.name);
    if (e.isDirectory()) return e.name === 'google' ? [] : files(p);
    return [p];
  });
}

function readMessages(source) {
  for (const m of source.matchAll(/\nproto\.([\w.]+) = function\(opt_data\)/g)) {
    messages[m[1]] ??= { fields: {}, oneofs: {} };
  }
  // A comment that is not directly above its accessor's message would pair
  // wrongly, so comments are taken block by block.
  const block = /\/\*\*\n((?: \*.*\n)+?) \*\/\nproto\.([\w.]+)\.prototype\.get(\w+) = function/g;
  for (const m of source.matchAll(block)) {
    const line = m[1].split('\n').map((l) => l.replace(/^ \* ?/, '')).find((l) => /= \d+;$/.test(l));
    if (!line) continue;
    const message = messages[m[2]];
    let f;
    if ((f = line.match(/^map<(\w+), ([\w.]+)> (\w+) = (\d+);$/))) {
      message.fields[f[4]] = { name: f[3], label: 'map', key: f[1], type: f[2] };
    } else if ((f = line.match(/^(optional|repeated) ([\w.]+) (\w+) = (\d+);$/))) {
      message.fields[f[4]] = { name: f[3], label: f[1], type: f[2] };
    }
  }
  for (const m of source.matchAll(/\nproto\.([\w.]+)\.oneofGroups_ = (\[\[[\d,\[\]]*\]\]);/g)) {
    messages[m[1]].oneofs = JSON.parse(m[2]);
  }
  for (const m of source.matchAll(/\nproto\.([\w.]+) = \{\n((?:  \w+: -?\d+,?\n)+)\};/g)) {
    if (/Case$/.test(m[1])) continue;
    enums[m[1]] = Object.fromEntries(
      [...m[2].matchAll(/  (\w+): (-?\d+)/g)].map((v) => [v[1], Number(v[2])]),
    );
  }
}

function readServices(source) {
  const method = /path: '\/([\w.]+)\/(\w+)',\s*requestStream: (\w+),\s*responseStream: (\w+),\s*requestType: (\w+)\.([\w.]+),\s*responseType: (\w+)\.([\w.]+),/g;
  for (const m of source.matchAll(method)) {
    services[m[1]] ??= {};
    services[m[1]][m[2]] = {
      requestStream: m[3] === 'true',
      responseStream: m[4] === 'true',
      request: m[6],
      response: m[8],
    };
  }
}

for (const f of files(lib)) {
  if (f.endsWith('_grpc_pb.js')) readServices(fs.readFileSync(f, 'utf8'));
  else if (f.endsWith('_pb.js')) readMessages(fs.readFileSync(f, 'utf8'));
}
process.stdout.write(JSON.stringify({ messages, enums, services }, null, 1));
