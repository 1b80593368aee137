// SPDX-License-Identifier: Apache-2.0

'use strict';

const { Contract } = require('fabric-contract-api');

const OWNER_INDEX = 'owner~id';
const MAX_FIELD = 256; // bytes of an id, colour or owner

// AssetContract is the register of examples/asset-go on fabric-contract-api: the
// same functions, the same keys and the same bytes under them, so that a peer
// with the one and a peer with the other endorse alike.
class AssetContract extends Contract {
    constructor() {
        super('AssetContract');
    }

    async InitLedger(ctx) {
        const assets = [
            asset('asset1', 'blue', 5, 'Tomoko', 300),
            asset('asset2', 'red', 5, 'Brad', 400),
            asset('asset3', 'green', 10, 'Jin Soo', 500),
            asset('asset4', 'yellow', 10, 'Max', 600),
            asset('asset5', 'black', 15, 'Adriana', 700),
            asset('asset6', 'white', 15, 'Michel', 800),
        ];
        for (const a of assets) {
            await write(ctx, null, a);
        }
    }

    async CreateAsset(ctx, id, color, size, owner, appraisedValue) {
        const a = parse(id, color, size, owner, appraisedValue);
        const old = await ctx.stub.getState(a.ID);
        if (old.length > 0) {
            throw new Error(`the asset ${id} already exists; use UpdateAsset to change it`);
        }
        await write(ctx, null, a);
        event(ctx, 'AssetCreated', a);
    }

    async ReadAsset(ctx, id) {
        return encode(await read(ctx, id)).toString();
    }

    async UpdateAsset(ctx, id, color, size, owner, appraisedValue) {
        const a = parse(id, color, size, owner, appraisedValue);
        await write(ctx, await read(ctx, id), a);
    }

    // TransferAsset returns the owner before.
    async TransferAsset(ctx, id, newOwner) {
        check('newOwner', newOwner);
        const old = await read(ctx, id);
        const a = { ...old, Owner: newOwner };
        await write(ctx, old, a);
        event(ctx, 'AssetTransferred', a);
        return old.Owner;
    }

    async DeleteAsset(ctx, id) {
        const old = await read(ctx, id);
        await ctx.stub.deleteState(ctx.stub.createCompositeKey(OWNER_INDEX, [old.Owner, old.ID]));
        await ctx.stub.deleteState(id);
        event(ctx, 'AssetDeleted', old);
    }

    async AssetExists(ctx, id) {
        check('id', id);
        const value = await ctx.stub.getState(id);
        return value.length > 0;
    }

    async GetAllAssets(ctx) {
        const all = [];
        for await (const { key, value } of ctx.stub.getStateByRange('', '')) {
            all.push(decode(key, value));
        }
        return JSON.stringify(all);
    }

    async GetAssetsByRange(ctx, start, end, pageSize, bookmark) {
        return onePage(await ctx.stub.getStateByRangeWithPagination(start, end, size(pageSize), bookmark));
    }

    async GetAssetsByOwner(ctx, owner) {
        const owned = [];
        for await (const { key } of ctx.stub.getStateByPartialCompositeKey(OWNER_INDEX, [owner])) {
            const { attributes } = ctx.stub.splitCompositeKey(key);
            owned.push(await read(ctx, attributes[1]));
        }
        return JSON.stringify(owned);
    }

    async GetAssetHistory(ctx, id) {
        check('id', id);
        const changes = [];
        for await (const m of ctx.stub.getHistoryForKey(id)) {
            const change = { IsDelete: m.isDelete };
            if (!m.isDelete) {
                change.Record = decode(id, m.value);
            }
            change.Timestamp = time(m.timestamp);
            change.TxId = m.txId;
            changes.push(change);
        }
        return JSON.stringify(changes);
    }

    // QueryAssets runs a rich query in CouchDB's selector syntax. The query must give
    // whole assets: without fields, or with all of them.
    async QueryAssets(ctx, query) {
        const found = [];
        for await (const { key, value } of ctx.stub.getQueryResult(query)) {
            found.push(decode(key, value));
        }
        return JSON.stringify(found);
    }

    async QueryAssetsPage(ctx, query, pageSize, bookmark) {
        return onePage(await ctx.stub.getQueryResultWithPagination(query, size(pageSize), bookmark));
    }

    // unknownTransaction answers calls of functions that are not there.
    async unknownTransaction(ctx) {
        const { fcn } = ctx.stub.getFunctionAndParameters();
        throw new Error(`function "${fcn}" does not exist; see the contract's metadata (org.hyperledger.fabric:GetMetadata)`);
    }
}

// asset puts the fields into alphabetical order: the order of the bytes.
function asset(ID, Color, Size, Owner, AppraisedValue) {
    return { AppraisedValue, Color, ID, Owner, Size };
}

function parse(id, color, size, owner, appraisedValue) {
    check('id', id);
    check('color', color);
    check('owner', owner);
    return asset(id, color, number('size', size), owner, number('appraisedValue', appraisedValue));
}

function check(name, value) {
    if (value === '') {
        throw new Error(`${name} must not be empty`);
    }
    const bytes = Buffer.byteLength(value);
    if (bytes > MAX_FIELD) {
        throw new Error(`${name} has ${bytes} bytes; at most ${MAX_FIELD} are allowed`);
    }
    if (value.includes('\u0000') || value.includes('\u{10FFFF}')) {
        throw new Error(`${name} has a reserved character (U+0000 or U+10FFFF)`);
    }
}

function number(name, text) {
    const n = Number(text);
    if (!/^[0-9]+$/.test(text) || !Number.isSafeInteger(n)) {
        throw new Error(`${name} "${text}" is not a whole number from 0 on`);
    }
    return n;
}

function size(pageSize) {
    const n = Number(pageSize);
    if (!/^[0-9]+$/.test(pageSize) || n < 1 || n > 1000) {
        throw new Error(`pageSize "${pageSize}" is not a number from 1 to 1000`);
    }
    return n;
}

async function onePage({ iterator, metadata }) {
    const page = { Assets: [], Bookmark: metadata.bookmark, Count: metadata.fetchedRecordsCount };
    for (let row = await iterator.next(); !row.done; row = await iterator.next()) {
        page.Assets.push(decode(row.value.key, row.value.value));
    }
    await iterator.close();
    return JSON.stringify(page);
}

async function read(ctx, id) {
    check('id', id);
    const value = await ctx.stub.getState(id);
    if (value.length === 0) {
        throw new Error(`the asset ${id} does not exist`);
    }
    return decode(id, value);
}

// write puts an asset and keeps the owner index in step with it.
async function write(ctx, old, a) {
    await ctx.stub.putState(a.ID, encode(a));
    if (old) {
        if (old.Owner === a.Owner) {
            return;
        }
        await ctx.stub.deleteState(ctx.stub.createCompositeKey(OWNER_INDEX, [old.Owner, old.ID]));
    }
    // A value: an empty one would delete.
    await ctx.stub.putState(ctx.stub.createCompositeKey(OWNER_INDEX, [a.Owner, a.ID]), Buffer.from([0]));
}

function event(ctx, name, a) {
    ctx.stub.setEvent(name, encode(a));
}

function encode(a) {
    return Buffer.from(JSON.stringify(a));
}

function decode(key, value) {
    try {
        const a = JSON.parse(value.toString());
        return asset(a.ID, a.Color, a.Size, a.Owner, a.AppraisedValue);
    } catch (err) {
        throw new Error(`the value under "${key}" is not an asset: ${err.message}`);
    }
}

// time is RFC 3339 with as many digits of the nanoseconds as there are.
function time({ seconds, nanos }) {
    const whole = new Date(seconds * 1000).toISOString().slice(0, 19);
    const fraction = nanos ? '.' + String(nanos).padStart(9, '0').replace(/0+$/, '') : '';
    return `${whole}${fraction}Z`;
}

module.exports = AssetContract;
