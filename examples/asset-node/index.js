// SPDX-License-Identifier: Apache-2.0

'use strict';

const AssetContract = require('./lib/asset-contract.js');

module.exports.contracts = [AssetContract];
