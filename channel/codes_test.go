package channel

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/bccsp"
	"strongroom/channel/configtx"
	"strongroom/ledger/rwset"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
	"strongroom/wire/rwsetpb"
)

// draft is a transaction in all its parts, to be changed and put together again. What
// a part's bytes field holds, if it is set, goes in the place of the part.
type draft struct {
	channel   *commonpb.ChannelHeader
	signature *commonpb.SignatureHeader
	action    *commonpb.SignatureHeader // of the transaction's action
	called    *peerpb.ChaincodeHeaderExtension
	proposal  []byte
	result    *peerpb.ChaincodeAction
	sets      *rwsetpb.TxReadWriteSet
	endorsed  []*peerpb.Endorsement
	signed    []byte // the creator's signature

	rawPayload, rawHeader, rawExtension, rawData, rawTransaction, rawResponse, rawResult, rawSets, rawHash []byte

	noHeader, noExtension, noResult, noAction, noData bool
	txID                                              string
	actions                                           int
}

// newDraft takes transaction 0 of block 4 apart: a put to kv that both organizations
// endorsed. It gets a nonce of its own.
func newDraft(t *testing.T, nonce string) *draft {
	t.Helper()
	tx := wire.ParseTx(0, readBlock(t, 4).Data.Data[0])
	if tx.HeaderFault != nil || tx.BodyFault != nil || tx.Endorsed.ResultsFault != nil {
		t.Fatal("transaction 0 of block 4 is not the one it was")
	}
	d := &draft{
		channel:   proto.Clone(tx.ChannelHeader).(*commonpb.ChannelHeader),
		signature: &commonpb.SignatureHeader{Creator: tx.SignatureHeader.Creator, Nonce: []byte(nonce)},
		called:    &peerpb.ChaincodeHeaderExtension{ChaincodeId: &peerpb.ChaincodeID{Name: "kv"}},
		proposal:  tx.Endorsed.ProposalPayload,
		result:    proto.Clone(tx.Endorsed.Action).(*peerpb.ChaincodeAction),
		endorsed:  tx.Endorsed.Endorsements,
		signed:    tx.Signature,
		actions:   1,
	}
	d.action = &commonpb.SignatureHeader{Creator: d.signature.Creator, Nonce: d.signature.Nonce}
	d.put("kv", "code-"+nonce)
	return d
}

// put makes a write of one key the whole read/write set.
func (d *draft) put(namespace, key string) {
	d.set(namespace, &kvrwsetpb.KVRWSet{Writes: []*kvrwsetpb.KVWrite{{Key: key, Value: []byte("v")}}})
}

func (d *draft) set(namespace string, set *kvrwsetpb.KVRWSet) {
	d.sets = &rwsetpb.TxReadWriteSet{}
	d.add(namespace, set)
}

func (d *draft) add(namespace string, set *kvrwsetpb.KVRWSet) {
	d.sets.NsRwset = append(d.sets.NsRwset, &rwsetpb.NsReadWriteSet{Namespace: namespace, Rwset: bytesOf(set)})
}

func bytesOf(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func or(raw, made []byte) []byte {
	if raw != nil {
		return raw
	}
	return made
}

// envelope puts the transaction together, with the transaction id and proposal hash
// that are right for its parts unless they are set.
func (d *draft) envelope() []byte {
	d.channel.TxId = wire.TxID(d.signature.Nonce, d.signature.Creator)
	if d.txID != "" {
		d.channel.TxId = strings.TrimPrefix(d.txID, "-")
	}
	d.channel.Extension = or(d.rawExtension, bytesOf(d.called))
	if d.noExtension {
		d.channel.Extension = nil
	}
	header := &commonpb.Header{ChannelHeader: or(d.rawHeader, bytesOf(d.channel)), SignatureHeader: bytesOf(d.signature)}
	d.result.Results = or(d.rawSets, bytesOf(d.sets))
	h := sha256.New()
	h.Write(header.ChannelHeader)
	h.Write(bytesOf(d.action))
	h.Write(d.proposal)
	response := &peerpb.ProposalResponsePayload{ProposalHash: or(d.rawHash, h.Sum(nil)), Extension: or(d.rawResult, bytesOf(d.result))}
	if d.noResult {
		response.Extension = nil
	}
	payload := &peerpb.ChaincodeActionPayload{
		ChaincodeProposalPayload: d.proposal,
		Action:                   &peerpb.ChaincodeEndorsedAction{ProposalResponsePayload: or(d.rawResponse, bytesOf(response)), Endorsements: d.endorsed},
	}
	if d.noAction {
		payload.Action = nil
	}
	tx := &peerpb.Transaction{}
	for range d.actions {
		tx.Actions = append(tx.Actions, &peerpb.TransactionAction{Header: bytesOf(d.action), Payload: or(d.rawTransaction, bytesOf(payload))})
	}
	outer := &commonpb.Payload{Header: header, Data: or(d.rawData, bytesOf(tx))}
	if d.noHeader {
		outer.Header = nil
	}
	if d.noData {
		outer.Data = nil
	}
	return bytesOf(&commonpb.Envelope{Payload: or(d.rawPayload, bytesOf(outer)), Signature: d.signed})
}

// neverSet are the codes that no block of Fabric 3.1 carries, on channels with the
// capability V2_0 and above and with goleveldb, and why. The files are Fabric's.
var neverSet = map[code]string{
	peerpb.TxValidationCode_NIL_ENVELOPE:               "a block's entry is bytes, and any bytes give an envelope or INVALID_OTHER_REASON (txvalidator/v20/validator.go)",
	peerpb.TxValidationCode_UNKNOWN_TX_TYPE:            "ValidateTransaction gives UNSUPPORTED_TX_PAYLOAD for every other type before (common/validation/msgvalidation.go)",
	peerpb.TxValidationCode_TARGET_CHAIN_NOT_FOUND:     "chainExists always says yes; another channel's creator fails before, with BAD_CREATOR_SIGNATURE",
	peerpb.TxValidationCode_MARSHAL_TX_ERROR:           "what was unmarshalled marshals",
	peerpb.TxValidationCode_NIL_TXACTION:               "the ledger would give it to what the dispatcher has refused with BAD_RESPONSE_PAYLOAD",
	peerpb.TxValidationCode_EXPIRED_CHAINCODE:          "only the validator for the capabilities V1_x sets it (txvalidator/v14)",
	peerpb.TxValidationCode_CHAINCODE_VERSION_CONFLICT: "only the validator for the capabilities V1_x sets it (txvalidator/v14)",
	peerpb.TxValidationCode_BAD_CHANNEL_HEADER:         "the channel header was parsed before, with BAD_COMMON_HEADER",
	peerpb.TxValidationCode_INVALID_WRITESET:           "only CouchDB refuses keys; a peer with goleveldb calls the transaction VALID",
	peerpb.TxValidationCode_NOT_VALIDATED:              "it stands for a transaction that was not looked at yet; a block with one is not committed",
}

// codeCase is one transaction and the code that Fabric's validator gives it.
type codeCase struct {
	name   string
	want   code
	change func(*draft)
}

const (
	badHeader = peerpb.TxValidationCode_BAD_COMMON_HEADER
	badTx     = peerpb.TxValidationCode_INVALID_ENDORSER_TRANSACTION
	other     = peerpb.TxValidationCode_INVALID_OTHER_REASON
	noCC      = peerpb.TxValidationCode_INVALID_CHAINCODE
	denied    = peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE
	duplicate = peerpb.TxValidationCode_DUPLICATE_TXID
	mvcc      = peerpb.TxValidationCode_MVCC_READ_CONFLICT
	phantom   = peerpb.TxValidationCode_PHANTOM_READ_CONFLICT
)

var garbage = []byte{0xff}

// read is a read of a key at a version that it never had.
func staleRead(key string) []*kvrwsetpb.KVRead {
	return []*kvrwsetpb.KVRead{{Key: key, Version: (&rwset.Height{Block: 77}).Proto()}}
}

// codeCases are made of one valid transaction each. Where a case has several faults,
// the code is that of the check which comes first in Fabric. earlier is the nonce and
// creator of a transaction in an earlier block.
func codeCases(earlier *commonpb.SignatureHeader) []codeCase {
	again := func(d *draft) {
		d.signature = proto.Clone(earlier).(*commonpb.SignatureHeader)
		d.action = d.signature
	}
	stranger := func(d *draft) { d.signature.Creator = []byte("nobody"); d.action = d.signature }
	return []codeCase{
		{"as it was", valid, func(*draft) {}},
		{"no namespace is written", valid, func(d *draft) { d.sets = &rwsetpb.TxReadWriteSet{} }},
		{"a version that was never defined", valid, func(d *draft) { d.result.ChaincodeId.Version = "9" }},

		{"payload", peerpb.TxValidationCode_BAD_PAYLOAD, func(d *draft) { d.rawPayload = garbage }},

		{"an envelope without anything", badHeader, func(d *draft) { d.rawPayload, d.signed = []byte{}, nil }},
		{"no header", badHeader, func(d *draft) { d.noHeader = true }},
		{"channel header", badHeader, func(d *draft) { d.rawHeader = garbage }},
		{"type MESSAGE", badHeader, func(d *draft) { d.channel.Type = int32(commonpb.HeaderType_MESSAGE) }},
		{"type ORDERER_TRANSACTION", badHeader, func(d *draft) { d.channel.Type = int32(commonpb.HeaderType_ORDERER_TRANSACTION) }},
		{"type 99", badHeader, func(d *draft) { d.channel.Type = 99 }},
		{"epoch", badHeader, func(d *draft) { d.channel.Epoch = 1 }},
		{"no nonce", badHeader, func(d *draft) { d.signature.Nonce = nil }},
		{"no creator", badHeader, func(d *draft) { d.signature.Creator = nil }},
		{"epoch before creator", badHeader, func(d *draft) { stranger(d); d.channel.Epoch = 1 }},

		{"a creator of no organization", peerpb.TxValidationCode_BAD_CREATOR_SIGNATURE, stranger},
		{"another channel", peerpb.TxValidationCode_BAD_CREATOR_SIGNATURE, func(d *draft) { d.channel.ChannelId = "other" }},
		{"no signature", peerpb.TxValidationCode_BAD_CREATOR_SIGNATURE, func(d *draft) { d.signed = nil }},
		{"creator before type", peerpb.TxValidationCode_BAD_CREATOR_SIGNATURE, func(d *draft) {
			stranger(d)
			d.channel.Type = int32(commonpb.HeaderType_CONFIG_UPDATE)
		}},
		{"creator before transaction id", peerpb.TxValidationCode_BAD_CREATOR_SIGNATURE, func(d *draft) { stranger(d); d.txID = "1" }},

		{"type CONFIG_UPDATE", peerpb.TxValidationCode_UNSUPPORTED_TX_PAYLOAD, func(d *draft) { d.channel.Type = int32(commonpb.HeaderType_CONFIG_UPDATE) }},
		{"a configuration without data", peerpb.TxValidationCode_INVALID_CONFIG_TRANSACTION, func(d *draft) {
			d.channel.Type, d.noData = int32(commonpb.HeaderType_CONFIG), true
		}},

		{"transaction id", peerpb.TxValidationCode_BAD_PROPOSAL_TXID, func(d *draft) { d.txID = hex.EncodeToString(make([]byte, 32)) }},
		{"no transaction id", peerpb.TxValidationCode_BAD_PROPOSAL_TXID, func(d *draft) { d.nonce("unnamed"); d.txID = "-" }},
		{"transaction id before data", peerpb.TxValidationCode_BAD_PROPOSAL_TXID, func(d *draft) { d.txID, d.rawData = "1", garbage }},

		{"no data", badTx, func(d *draft) { d.noData = true }},
		{"data", badTx, func(d *draft) { d.rawData = garbage }},
		{"no action", badTx, func(d *draft) { d.actions = 0 }},
		{"two actions", badTx, func(d *draft) { d.actions = 2 }},
		{"no nonce in the action", badTx, func(d *draft) { d.action.Nonce = nil }},
		{"no creator in the action", badTx, func(d *draft) { d.action.Creator = nil }},
		{"payload of the action", badTx, func(d *draft) { d.rawTransaction = garbage }},
		{"no endorsed action", badTx, func(d *draft) { d.noAction = true }},
		{"response payload", badTx, func(d *draft) { d.rawResponse = garbage }},
		{"proposal hash", badTx, func(d *draft) { d.rawHash = make([]byte, 32) }},
		{"no proposal", badTx, func(d *draft) { d.proposal = nil }},
		{"data before duplicate", badTx, func(d *draft) { again(d); d.actions = 2 }},

		{"of an earlier block", duplicate, again},
		{"duplicate before the rest", duplicate, func(d *draft) { again(d); d.rawExtension, d.rawSets, d.endorsed = garbage, garbage, nil }},

		{"header extension", peerpb.TxValidationCode_BAD_HEADER_EXTENSION, func(d *draft) { d.rawExtension = garbage }},
		{"header extension before action", peerpb.TxValidationCode_BAD_HEADER_EXTENSION, func(d *draft) { d.rawExtension, d.noResult = garbage, true }},
		{"no chaincode action", peerpb.TxValidationCode_BAD_RESPONSE_PAYLOAD, func(d *draft) { d.noResult = true }},
		{"chaincode action", peerpb.TxValidationCode_BAD_RESPONSE_PAYLOAD, func(d *draft) { d.rawResult = garbage }},
		{"read/write set", peerpb.TxValidationCode_BAD_RWSET, func(d *draft) { d.rawSets = garbage }},
		{"read/write set of a namespace", peerpb.TxValidationCode_BAD_RWSET, func(d *draft) { d.sets.NsRwset[0].Rwset = garbage }},
		{"hashed read/write set", peerpb.TxValidationCode_BAD_RWSET, func(d *draft) {
			d.sets.NsRwset[0].CollectionHashedRwset = []*rwsetpb.CollectionHashedReadWriteSet{{CollectionName: "c", HashedRwset: garbage}}
		}},
		{"a key that is not UTF-8", peerpb.TxValidationCode_BAD_RWSET, func(d *draft) {
			d.sets.NsRwset[0].Rwset = []byte{0x1a, 3, 0x0a, 1, 0xff} // writes{key: 0xff}
		}},
		{"read/write set before chaincode", peerpb.TxValidationCode_BAD_RWSET, func(d *draft) { d.rawSets, d.noExtension = garbage, true }},

		{"no chaincode is called", other, func(d *draft) { d.noExtension = true }},
		{"no chaincode answers", other, func(d *draft) { d.result.ChaincodeId = nil }},
		{"event", other, func(d *draft) { d.result.Events = garbage }},
		{"an event of another chaincode", other, func(d *draft) { d.result.Events = bytesOf(&peerpb.ChaincodeEvent{ChaincodeId: "other"}) }},
		{"event before a namespace that stands twice", other, func(d *draft) {
			d.result.Events = garbage
			d.sets.NsRwset = append(d.sets.NsRwset, d.sets.NsRwset[0])
		}},

		{"an empty name", noCC, func(d *draft) { d.called.ChaincodeId.Name = "" }},
		{"another chaincode answers", noCC, func(d *draft) { d.result.ChaincodeId.Name = "other" }},
		{"no version", noCC, func(d *draft) { d.result.ChaincodeId.Version = "" }},
		{"a chaincode that is not defined", noCC, func(d *draft) { d.called.ChaincodeId.Name, d.result.ChaincodeId.Name = "other", "other" }},
		{"a write for a chaincode that is not defined", noCC, func(d *draft) { d.put("other", "k") }},
		{"a write to lscc", noCC, func(d *draft) { d.put("lscc", "kv") }},
		{"chaincode before event", noCC, func(d *draft) { d.result.ChaincodeId.Version, d.result.Events = "", garbage }},
		{"a read of a chaincode that is not defined", valid, func(d *draft) {
			d.add("other", &kvrwsetpb.KVRWSet{Reads: []*kvrwsetpb.KVRead{{Key: "k"}}})
		}},

		{"a namespace stands twice", peerpb.TxValidationCode_ILLEGAL_WRITESET, func(d *draft) { d.sets.NsRwset = append(d.sets.NsRwset, d.sets.NsRwset[0]) }},
		{"twice before not defined", peerpb.TxValidationCode_ILLEGAL_WRITESET, func(d *draft) {
			d.put("other", "k")
			d.sets.NsRwset = append(d.sets.NsRwset, d.sets.NsRwset[0])
		}},

		{"no endorsement", denied, func(d *draft) { d.endorsed = nil }},
		{"one of two endorsements", denied, func(d *draft) { d.endorsed = d.endorsed[:1] }},
		{"one endorsement twice", denied, func(d *draft) { d.endorsed = []*peerpb.Endorsement{d.endorsed[0], d.endorsed[0]} }},
		{"a collection that is not defined", denied, func(d *draft) {
			d.sets.NsRwset[0].CollectionHashedRwset = []*rwsetpb.CollectionHashedReadWriteSet{{CollectionName: "c", HashedRwset: bytesOf(
				&kvrwsetpb.HashedRWSet{HashedWrites: []*kvrwsetpb.KVWriteHash{{KeyHash: rwset.HashKey("k"), ValueHash: rwset.HashValue([]byte("v"))}}})}}
		}},
		{"endorsement before versions", denied, func(d *draft) {
			d.endorsed = nil
			d.set("kv", &kvrwsetpb.KVRWSet{Reads: staleRead("a01")})
		}},

		{"a version that is not there", mvcc, func(d *draft) { d.set("kv", &kvrwsetpb.KVRWSet{Reads: staleRead("a01")}) }},
		{"a key of this block, absent before", mvcc, func(d *draft) {
			d.set("kv", &kvrwsetpb.KVRWSet{Reads: []*kvrwsetpb.KVRead{{Key: "code-block 6 case 0"}}})
		}},
		{"a private key that is not there", mvcc, func(d *draft) {
			d.sets.NsRwset[0].CollectionHashedRwset = []*rwsetpb.CollectionHashedReadWriteSet{{CollectionName: "c", HashedRwset: bytesOf(
				&kvrwsetpb.HashedRWSet{HashedReads: []*kvrwsetpb.KVReadHash{{KeyHash: rwset.HashKey("k"), Version: (&rwset.Height{}).Proto()}}})}}
		}},
		{"versions before phantoms", mvcc, func(d *draft) {
			d.set("kv", &kvrwsetpb.KVRWSet{Reads: staleRead("a01"), RangeQueriesInfo: []*kvrwsetpb.RangeQueryInfo{{StartKey: "code-", EndKey: "code.", ItrExhausted: true}}})
		}},
		{"a range that was empty", phantom, func(d *draft) {
			d.set("kv", &kvrwsetpb.KVRWSet{RangeQueriesInfo: []*kvrwsetpb.RangeQueryInfo{{StartKey: "code-", EndKey: "code.", ItrExhausted: true}}})
		}},
		{"phantoms before the versions of a later namespace", phantom, func(d *draft) {
			d.set("kv", &kvrwsetpb.KVRWSet{RangeQueriesInfo: []*kvrwsetpb.RangeQueryInfo{{StartKey: "code-", EndKey: "code.", ItrExhausted: true}}})
			d.add("zz", &kvrwsetpb.KVRWSet{Reads: staleRead("a01")})
		}},

		// The duplicates of one block: the first that passes the validator stands, even if
		// the ledger then refuses it.
		{"first of one id, denied", denied, func(d *draft) { again(d); d.nonce("same"); d.endorsed = nil }},
		{"second of one id", mvcc, func(d *draft) { d.nonce("same"); d.set("kv", &kvrwsetpb.KVRWSet{Reads: staleRead("a01")}) }},
		{"third of one id", duplicate, func(d *draft) { d.nonce("same") }},
		{"an id that somebody else took in vain", peerpb.TxValidationCode_BAD_CREATOR_SIGNATURE, func(d *draft) { d.nonce("taken"); d.signed = nil }},
		{"its owner", valid, func(d *draft) { d.nonce("taken") }},
		{"an id for the next block", peerpb.TxValidationCode_BAD_CREATOR_SIGNATURE, func(d *draft) { d.nonce("invalid"); d.signed = nil }},
	}
}

// nextCases stand in the block after that of codeCases: an id that occurred in an
// earlier block is taken, whatever became of the transaction, and even if only its
// nonce and creator give it.
var nextCases = []codeCase{
	{"the id of one that is not valid", duplicate, func(d *draft) { d.nonce("invalid") }},
	{"the id of one without", duplicate, func(d *draft) { d.nonce("unnamed") }},
	{"a new id", valid, func(*draft) {}},
}

func (d *draft) nonce(nonce string) {
	d.signature.Nonce = []byte(nonce)
	d.action = d.signature
}

// withApplication gives a genesis block with one application capability.
func withApplication(t *testing.T, capability string) *commonpb.Block {
	t.Helper()
	b := readBlock(t, 0)
	env, payload, config := &commonpb.Envelope{}, &commonpb.Payload{}, &commonpb.ConfigEnvelope{}
	if err := errors.Join(proto.Unmarshal(b.Data.Data[0], env), proto.Unmarshal(env.Payload, payload), proto.Unmarshal(payload.Data, config)); err != nil {
		t.Fatal(err)
	}
	value := config.Config.ChannelGroup.Groups["Application"].Values["Capabilities"]
	value.Value = bytesOf(&commonpb.Capabilities{Capabilities: map[string]*commonpb.Capability{capability: {}}})
	payload.Data = bytesOf(config)
	env.Payload = bytesOf(payload)
	b.Data.Data[0] = bytesOf(env)
	b.Header.DataHash = wire.DataHash(b.Data)
	return b
}

// TestCodes produces every validation code of Fabric by the whole pipeline and the
// ledger, for both levels of application capabilities, and says of the rest why
// nothing produces them.
func TestCodes(t *testing.T) {
	for _, capability := range []string{"V2_0", "V2_5"} {
		t.Run(capability, func(t *testing.T) {
			genesis := withApplication(t, capability)
			n := newNodeAt(t, genesis, func(v bccsp.Verifier) bccsp.Verifier { return believer{v} })
			earlier := wire.ParseTx(0, readBlock(t, 4).Data.Data[0]).SignatureHeader
			raw := [][]byte{[]byte("\xffnot an envelope"), {}}
			cases := append([]codeCase{{"bytes", other, nil}, {"no bytes", badHeader, nil}}, codeCases(earlier)...)
			next := readBlock(t, 7)
			c := openFrom(t, n, genesis, blockOf(t, readBlock(t, 6), raw, cases), blockOf(t, next, nil, nextCases))
			if got := c.Config().Capabilities.Application.String(); got != capability {
				t.Fatalf("the channel has %s", got)
			}
			produced := map[code]bool{}
			for number, cases := range map[uint64][]codeCase{6: cases, 7: nextCases} {
				committed, err := n.ledger.Block(number)
				if err != nil {
					t.Fatal(err)
				}
				for i, flag := range filter(committed) {
					produced[code(flag)] = true
					if code(flag) != cases[i].want {
						t.Errorf("block %d, transaction %d (%s) is %s, want %s", number, i, cases[i].name, code(flag), cases[i].want)
					}
				}
			}
			for number, name := range peerpb.TxValidationCode_name {
				if produced[code(number)] == (neverSet[code(number)] != "") {
					t.Errorf("%s: produced %v, never set because %q", name, produced[code(number)], neverSet[code(number)])
				}
			}
		})
	}
}

// blockOf gives a block with raw entries and, after them, the cases' transactions.
// Cases without a change stand for the raw entries.
func blockOf(t *testing.T, b *commonpb.Block, raw [][]byte, cases []codeCase) *commonpb.Block {
	t.Helper()
	b.Data.Data = raw
	for i, c := range cases {
		if c.change == nil {
			continue
		}
		d := newDraft(t, fmt.Sprintf("block %d case %d", b.Header.Number, i-len(raw)))
		c.change(d)
		b.Data.Data = append(b.Data.Data, d.envelope())
	}
	return b
}

// openFrom follows a channel from a genesis block through blocks of testdata/interop
// up to the last ones, which stand in the place of those with their numbers.
func openFrom(t *testing.T, n *node, genesis *commonpb.Block, last ...*commonpb.Block) *Channel {
	t.Helper()
	first, height := last[0].Header.Number, last[len(last)-1].Header.Number
	previous := wire.BlockHash(genesis.Header)
	source := &orderer{t: t, ends: true, alter: func(b *commonpb.Block) *commonpb.Block {
		if b.Header.Number > height {
			return nil
		}
		if b.Header.Number >= first {
			b = last[b.Header.Number-first]
		}
		b.Header.PreviousHash, b.Header.DataHash = previous, wire.DataHash(b.Data)
		previous = wire.BlockHash(b.Header)
		return b
	}}
	c := n.open(t, nil)
	finished := make(chan committed, height+1)
	if err := c.session(t.Context(), source, finished); !errors.Is(err, ErrBadBlock) {
		t.Fatalf("the session ended with %v", err) // the block after the last one is nil
	}
	if c.chain.Height() != height+1 {
		t.Fatalf("height is %d, want %d", c.chain.Height(), height+1)
	}
	return c
}

// TestOldCapabilitiesAreRefused joins channels with application capabilities of
// version 1: their blocks have codes by rules that Strongroom does not have.
func TestOldCapabilitiesAreRefused(t *testing.T) {
	n := newNode(t, nil)
	for _, capability := range []string{"V1_1", "V1_2", "V1_3", "V1_4_2"} {
		err := Join(t.Context(), n.ledger, n.deps, withApplication(t, capability))
		want := `genesis block: configuration of channel "mychannel": /Channel/Application/Capabilities: the channel has a level below V2_0, ` +
			`which Strongroom does not serve: enable application capability V2_0 or V2_5 in a configuration update first`
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v", capability, err)
		}
	}
	if _, err := configtx.FromBlock(t.Context(), n.deps, withApplication(t, "V9_9")); err == nil {
		t.Error("a capability that nobody knows is taken")
	}
}
