#!/usr/bin/env bash
# The main job on this machine: a development network, real transactions through the
# Gateway, the sealed bytes on disk, and one block's provenance verified by the
# auditor's tool. Run by `make quickstart`; the network keeps running afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=bin
dir=${DIR:-dev}

say() { printf '\n\033[1m%s\033[0m\n' "$1"; }
run() { printf '$ %s\n' "$*"; "$@"; }
asset() { # asset ORGANISATION invoke|query JSON
  local org=$1 verb=$2 args=$3
  run "$bin/strongroom" chaincode "$verb" --channel main --name asset --config "$dir/$org/admin.yaml" --args "$args"
}

say "1. A network: two organisations, their peers, an ordering node, all keys in SoftHSM"
run "$bin/strongroom" dev up --dir "$dir" --base-port "${BASE_PORT:-7050}"

id="ingot-$(date +%s)"
color="gold-$RANDOM$RANDOM$RANDOM"
say "2. Transactions, endorsed by both organisations and signed in the HSMs"
asset org1 invoke "[\"CreateAsset\",\"$id\",\"$color\",\"12\",\"Ada\",\"780000\"]"
asset org2 invoke "[\"TransferAsset\",\"$id\",\"Grace Hopper\"]"
asset org1 query "[\"ReadAsset\",\"$id\"]"
asset org2 query "[\"GetAssetHistory\",\"$id\"]"

say "3. On the peer's disk: sealed"
echo "The first bytes of its block log:"
od -A d -t x1z -N 64 "$dir/org1/data/channels/main/ledger/blocks/000000.blocks"
if grep -rqaF "$color" "$dir"/org*/data "$dir/orderer/data"; then
  echo "quickstart: the value $color can be read on disk" >&2
  exit 1
fi
echo "A search of all data folders for the colour $color finds nothing."

say "4. Provenance: what the peer's HSM signed, checked by the auditor's tool without it"
rm -f "$dir/pack.tar.zst"
run "$bin/strongroom" audit export main --config "$dir/org1/admin.yaml" --out "$dir/pack.tar.zst"
run "$bin/strongroom-audit" verify "$dir/pack.tar.zst" --html "$dir/report.html"

cat <<TEXT

The network keeps running.
  status     $bin/strongroom dev status --dir $dir
  health     curl -s http://127.0.0.1:$((${BASE_PORT:-7050} + 5))/healthz
  your app   $dir/gateway-org1.json tells any Fabric Gateway client how to connect
  stop       $bin/strongroom dev down --dir $dir     (make clean removes it)
Where to go on: docs/application-developer.md, docs/security-team.md, docs/operator.md, docs/auditor.md
TEXT
