package channel

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"strongroom/channel/configtx"
	"strongroom/channel/lifecycle"
	"strongroom/msp"
	"strongroom/policy"
	"strongroom/wire/commonpb"
	"strongroom/wire/kvrwsetpb"
	"strongroom/wire/peerpb"
	"strongroom/wire/rwsetpb"
)

// reference gives a block's codes in the plainest way: one transaction after the
// other, one check after the other, with full protobuf messages and the policies'
// second implementation. It shares with the Validator the identities and the
// compiled policies, and no code of its own. It is the oracle for the pipeline.
type reference struct {
	t      testing.TB
	engine *policy.Engine
	config *configtx.Config
	state  State

	// What earlier transactions of the block changed the policies of, if their
	// namespace passed.
	changed map[stateKey]bool
}

type code = peerpb.TxValidationCode

const valid = peerpb.TxValidationCode_VALID

func (r *reference) judge(b *commonpb.Block) []code {
	r.changed = map[stateKey]bool{}
	codes := make([]code, len(b.Data.Data))
	ids := make([]string, len(codes))
	for i, raw := range b.Data.Data {
		codes[i], ids[i] = r.transaction(raw)
	}
	seen := map[string]bool{}
	for i, id := range ids {
		if codes[i] == valid && id != "" {
			if seen[id] {
				codes[i] = peerpb.TxValidationCode_DUPLICATE_TXID
			}
			seen[id] = true
		}
	}
	return codes
}

func (r *reference) transaction(raw []byte) (code, string) {
	env, payload := &commonpb.Envelope{}, &commonpb.Payload{}
	channel, signature := &commonpb.ChannelHeader{}, &commonpb.SignatureHeader{}
	switch {
	case proto.Unmarshal(raw, env) != nil:
		return peerpb.TxValidationCode_INVALID_OTHER_REASON, ""
	case proto.Unmarshal(env.Payload, payload) != nil:
		return peerpb.TxValidationCode_BAD_PAYLOAD, ""
	case payload.Header == nil,
		proto.Unmarshal(payload.Header.ChannelHeader, channel) != nil,
		proto.Unmarshal(payload.Header.SignatureHeader, signature) != nil,
		channel.Type < 1 || channel.Type > 3 || channel.Epoch != 0,
		len(signature.Nonce) == 0 || len(signature.Creator) == 0:
		return peerpb.TxValidationCode_BAD_COMMON_HEADER, ""
	case channel.ChannelId != r.config.ID || r.signer(signature.Creator, env.Payload, env.Signature) == nil:
		return peerpb.TxValidationCode_BAD_CREATOR_SIGNATURE, ""
	}
	switch commonpb.HeaderType(channel.Type) {
	case commonpb.HeaderType_CONFIG:
		if payload.Data == nil || proto.Unmarshal(payload.Data, &commonpb.ConfigEnvelope{}) != nil {
			return peerpb.TxValidationCode_INVALID_CONFIG_TRANSACTION, ""
		}
		return valid, ""
	case commonpb.HeaderType_ENDORSER_TRANSACTION:
		sum := sha256.Sum256(append(append([]byte(nil), signature.Nonce...), signature.Creator...))
		if hex.EncodeToString(sum[:]) != channel.TxId {
			return peerpb.TxValidationCode_BAD_PROPOSAL_TXID, ""
		}
		return r.endorsed(payload, channel), channel.TxId
	}
	return peerpb.TxValidationCode_UNSUPPORTED_TX_PAYLOAD, ""
}

// signer is who signed, nil if nobody of the channel did.
func (r *reference) signer(identity, message, signature []byte) *msp.Identity {
	id, err := r.config.MSPs.Identity(r.t.Context(), identity)
	if err == nil && id.Verify(r.t.Context(), message, signature) == nil {
		return id
	}
	return nil
}

func (r *reference) endorsed(payload *commonpb.Payload, channel *commonpb.ChannelHeader) code {
	const invalid = peerpb.TxValidationCode_INVALID_ENDORSER_TRANSACTION
	tx, header, action := &peerpb.Transaction{}, &commonpb.SignatureHeader{}, &peerpb.ChaincodeActionPayload{}
	response := &peerpb.ProposalResponsePayload{}
	if proto.Unmarshal(payload.Data, tx) != nil || len(tx.Actions) != 1 ||
		proto.Unmarshal(tx.Actions[0].Header, header) != nil || len(header.Nonce) == 0 || len(header.Creator) == 0 ||
		proto.Unmarshal(tx.Actions[0].Payload, action) != nil ||
		proto.Unmarshal(action.GetAction().GetProposalResponsePayload(), response) != nil ||
		payload.Header.ChannelHeader == nil || action.ChaincodeProposalPayload == nil {
		return invalid
	}
	h := sha256.New()
	h.Write(payload.Header.ChannelHeader)
	h.Write(tx.Actions[0].Header)
	h.Write(action.ChaincodeProposalPayload)
	if string(h.Sum(nil)) != string(response.ProposalHash) {
		return invalid
	}
	if known, err := r.state.HasTx(channel.TxId); err != nil {
		r.t.Fatal(err)
	} else if known {
		return peerpb.TxValidationCode_DUPLICATE_TXID
	}
	extension, result, results := &peerpb.ChaincodeHeaderExtension{}, &peerpb.ChaincodeAction{}, &rwsetpb.TxReadWriteSet{}
	switch {
	case proto.Unmarshal(channel.Extension, extension) != nil:
		return peerpb.TxValidationCode_BAD_HEADER_EXTENSION
	case response.Extension == nil || proto.Unmarshal(response.Extension, result) != nil:
		return peerpb.TxValidationCode_BAD_RESPONSE_PAYLOAD
	case proto.Unmarshal(result.Results, results) != nil:
		return peerpb.TxValidationCode_BAD_RWSET
	}
	sets := make([]*set, len(results.NsRwset))
	for i, ns := range results.NsRwset {
		if sets[i] = r.parse(ns); sets[i] == nil {
			return peerpb.TxValidationCode_BAD_RWSET
		}
	}
	switch {
	case extension.ChaincodeId == nil || result.ChaincodeId == nil:
		return peerpb.TxValidationCode_INVALID_OTHER_REASON
	case extension.ChaincodeId.Name == "" || extension.ChaincodeId.Name != result.ChaincodeId.Name || result.ChaincodeId.Version == "":
		return peerpb.TxValidationCode_INVALID_CHAINCODE
	}
	called := extension.ChaincodeId.Name
	if result.Events != nil {
		event := &peerpb.ChaincodeEvent{}
		if proto.Unmarshal(result.Events, event) != nil || event.ChaincodeId != called {
			return peerpb.TxValidationCode_INVALID_OTHER_REASON
		}
	}
	names := map[string]bool{}
	must := []*set{{name: called}}
	for _, s := range sets {
		if names[s.name] {
			return peerpb.TxValidationCode_ILLEGAL_WRITESET
		}
		names[s.name] = true
		if s.name == called {
			must[0] = s
		} else if len(s.keys) > 0 {
			must = append(must, s)
		}
	}
	return r.policies(must, action.Action)
}

// set is what a transaction writes to one namespace.
type set struct {
	name   string
	keys   []stateKey // in Fabric's order
	policy []stateKey // of those, whose policy is written
}

func (r *reference) parse(ns *rwsetpb.NsReadWriteSet) *set {
	s := &set{name: ns.Namespace}
	public := &kvrwsetpb.KVRWSet{}
	if proto.Unmarshal(ns.Rwset, public) != nil {
		return nil
	}
	for _, w := range public.Writes {
		s.keys = append(s.keys, stateKey{s.name, "", w.Key})
	}
	for _, w := range public.MetadataWrites {
		s.keys = append(s.keys, stateKey{s.name, "", w.Key})
		s.policy = append(s.policy, stateKey{s.name, "", w.Key})
	}
	var later []stateKey
	for _, c := range ns.CollectionHashedRwset {
		hashed := &kvrwsetpb.HashedRWSet{}
		if proto.Unmarshal(c.HashedRwset, hashed) != nil {
			return nil
		}
		for _, w := range hashed.HashedWrites {
			s.keys = append(s.keys, stateKey{s.name, c.CollectionName, string(w.KeyHash)})
		}
		for _, w := range hashed.MetadataWrites {
			later = append(later, stateKey{s.name, c.CollectionName, string(w.KeyHash)})
		}
	}
	s.keys, s.policy = append(s.keys, later...), append(s.policy, later...)
	return s
}

func (r *reference) policies(must []*set, action *peerpb.ChaincodeEndorsedAction) code {
	var signers []*msp.Identity
	for _, e := range action.Endorsements {
		message := append(append([]byte(nil), action.ProposalResponsePayload...), e.Endorser...)
		if id := r.signer(e.Endorser, message, e.Signature); id != nil && !contains(signers, id) {
			signers = append(signers, id)
		}
	}
	result := valid
	var changed []stateKey
	for _, s := range must {
		c := r.namespace(s, signers)
		if c == valid {
			changed = append(changed, s.policy...)
		}
		if result == valid {
			result = c
		}
	}
	for _, key := range changed {
		r.changed[key] = true
	}
	return result
}

func (r *reference) namespace(s *set, signers []*msp.Identity) code {
	const denied = peerpb.TxValidationCode_ENDORSEMENT_POLICY_FAILURE
	var chaincode *policy.Policy
	var definition *lifecycle.Definition
	var err error
	if s.name == lifecycle.Namespace {
		chaincode, err = r.config.Policies.Policy("/Channel/Application/LifecycleEndorsement")
	} else {
		definition, err = lifecycle.ReadDefinition(r.state, s.name)
		if errors.Is(err, lifecycle.ErrNotDefined) {
			return peerpb.TxValidationCode_INVALID_CHAINCODE
		}
		if err == nil {
			chaincode, err = r.engine.ApplicationPolicy(r.config.MSPs, r.config.Policies, definition.ValidationParameter)
		}
	}
	if err != nil {
		r.t.Fatal(err)
	}
	asked := false
	for _, key := range s.keys {
		if r.changed[key] {
			return denied
		}
		p := chaincode
		var metadata map[string][]byte
		if key.collection == "" {
			metadata, err = r.state.GetMetadata(key.namespace, key.key)
		} else {
			metadata, err = r.state.PrivateMetadataByKeyHash(key.namespace, key.collection, []byte(key.key))
			if p = r.collection(definition, chaincode, key.collection); p == nil {
				return denied
			}
		}
		if err != nil {
			r.t.Fatal(err)
		}
		if own := metadata["VALIDATION_PARAMETER"]; len(own) > 0 {
			env := &commonpb.SignaturePolicyEnvelope{}
			if proto.Unmarshal(own, env) != nil {
				return denied
			}
			if p, err = r.engine.Signature(r.config.MSPs, env); err != nil {
				return denied
			}
		}
		if !r.allows(p, signers) {
			return denied
		}
		asked = true
	}
	if !asked && !r.allows(chaincode, signers) {
		return denied
	}
	return valid
}

// collection is the policy of a collection, nil if there is none of that name.
func (r *reference) collection(d *lifecycle.Definition, chaincode *policy.Policy, name string) *policy.Policy {
	if org, ok := lifecycle.ImplicitOrg(name); ok {
		for _, member := range r.config.Organizations {
			if string(member.MSPID) == org {
				p, err := r.config.Policies.Policy("/Channel/Application/" + member.Name + "/Endorsement")
				if err != nil {
					r.t.Fatal(err)
				}
				return p
			}
		}
		return nil
	}
	if d == nil || d.Collection(name) == nil {
		return nil
	}
	return chaincode
}

func (r *reference) allows(p *policy.Policy, signers []*msp.Identity) bool {
	allowed, err := p.Reference(signers)
	if err != nil {
		r.t.Fatal(err)
	}
	return allowed
}
