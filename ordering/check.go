package ordering

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"strongroom/bccsp"
	"strongroom/channel/configtx"
	"strongroom/msp"
	"strongroom/ordering/deliver"
	"strongroom/wire"
	"strongroom/wire/commonpb"
	"strongroom/wire/ordererpb"
)

// Policies of a channel that this service asks.
const (
	writersPolicy        = "/Channel/Writers"
	readersPolicy        = "/Channel/Readers"
	ordererWritersPolicy = "/Channel/Orderer/Writers"
	ordererReadersPolicy = "/Channel/Orderer/Readers"
	blockPolicy          = "/Channel/Orderer/BlockValidation"
)

// refusal is a verdict on an envelope: the status and the text for the client.
// Any other error is a failure of ours.
type refusal struct {
	status commonpb.Status
	info   string
	detail string // for our log alone
}

func (r *refusal) Error() string {
	if r.detail == "" {
		return r.info
	}
	return r.info + " (" + r.detail + ")"
}

// Is makes every refusal an ErrRefused.
func (r *refusal) Is(target error) bool { return target == ErrRefused }

func refuse(status commonpb.Status, format string, args ...any) *refusal {
	return &refusal{status: status, info: fmt.Sprintf(format, args...)}
}

// admit applies Fabric's filters to an envelope, in their order: empty, size,
// expiry, signature and policy. It is asked for what clients send, for the CONFIG
// envelopes made here, and again for an envelope whose configuration has passed.
func (c *chain) admit(ctx context.Context, cfg *configtx.Config, env *commonpb.Envelope, e *wire.Envelope, remote string) error {
	if len(e.Payload) == 0 {
		return refuse(commonpb.Status_BAD_REQUEST, "message payload is empty")
	}
	if size := envelopeSize(env); size > cfg.BatchSize.AbsoluteMaxBytes {
		return refuse(commonpb.Status_REQUEST_ENTITY_TOO_LARGE, "message payload is %d bytes and exceeds maximum allowed %d bytes", size, cfg.BatchSize.AbsoluteMaxBytes)
	}
	path := writersPolicy
	if maintenance(cfg) {
		path = ordererWritersPolicy
	}
	id, why, err := c.signer(ctx, cfg, e.SignatureHeader.GetCreator(), e.Payload, e.Signature, true)
	if err != nil {
		return err
	}
	return c.permit(ctx, cfg, path, id, why, Access{Resource: ResourceBroadcast, Caller: id, RemoteAddr: remote})
}

// signer is the identity that signed a message, or nil and why there is none.
func (c *chain) signer(ctx context.Context, cfg *configtx.Config, creator, message, sig []byte, checkExpiry bool) (id *msp.Identity, why string, err error) {
	id, err = cfg.MSPs.Identity(ctx, creator)
	invalid := msp.IsInvalid(err)
	if err != nil && !invalid {
		return nil, "", err
	}
	if checkExpiry {
		var end time.Time
		if invalid {
			end = deliver.CertificateEnd(creator)
		} else {
			end = id.ExpiresAt()
		}
		if !end.IsZero() && !c.cfg.Now().Before(end) {
			return nil, "", refuse(commonpb.Status_BAD_REQUEST, "broadcast client identity expired: the creator's certificate ended at %s", end.UTC().Format(time.RFC3339))
		}
	}
	if invalid {
		return nil, "the creator is not a valid identity of the channel: " + err.Error(), nil
	}
	err = id.Verify(ctx, message, sig)
	if errors.Is(err, bccsp.ErrBadSignature) {
		return nil, "the creator's signature is false: " + err.Error(), nil
	}
	return id, "", err
}

// permit evaluates a policy for one signer, or for none, and then asks the access layer.
func (c *chain) permit(ctx context.Context, cfg *configtx.Config, path string, id *msp.Identity, why string, a Access) error {
	p, err := cfg.Policies.Policy(path)
	if err != nil {
		return &refusal{status: commonpb.Status_FORBIDDEN, info: fmt.Sprintf("could not find policy %s: permission denied", path), detail: err.Error()}
	}
	var signers []*msp.Identity
	if id != nil {
		signers = []*msp.Identity{id}
	}
	d, err := p.Evaluate(ctx, signers)
	if err != nil {
		return err
	}
	if !d.Allowed {
		r := &refusal{status: commonpb.Status_FORBIDDEN, detail: d.Reason}
		switch {
		case id != nil:
			r.info = fmt.Sprintf("the creator does not satisfy policy %s: permission denied (decision %s)", path, d.ID)
		default:
			r.info = fmt.Sprintf("the creator or its signature is not valid in channel %q, so policy %s is not satisfied: permission denied (decision %s)", cfg.ID, path, d.ID)
			r.detail = why + "; " + d.Reason
		}
		return r
	}
	if c.cfg.Access == nil || id == nil {
		return nil
	}
	if err := c.cfg.Access(ctx, cfg, a); err != nil {
		if errors.Is(err, ErrDenied) {
			return &refusal{status: commonpb.Status_FORBIDDEN, info: "access denied", detail: err.Error()}
		}
		return err
	}
	return nil
}

// maintenance tells whether the channel is being migrated: only the orderer's own
// organizations may then write and read (Fabric's consensus-type migration).
func maintenance(cfg *configtx.Config) bool {
	return cfg.ConsensusState == ordererpb.ConsensusType_STATE_MAINTENANCE
}

// propose turns a CONFIG_UPDATE into the CONFIG envelope that is ordered.
func (c *chain) propose(ctx context.Context, cfg *configtx.Config, update *commonpb.Envelope) (*commonpb.Envelope, error) {
	ce, err := cfg.ProposeUpdate(ctx, update)
	var invalid *configtx.InvalidUpdateError
	if errors.As(err, &invalid) {
		return nil, refuse(commonpb.Status_BAD_REQUEST, "error applying config update to existing channel '%s': %s", cfg.ID, invalid.Reason)
	}
	if err != nil {
		return nil, err
	}
	env, err := c.signEnvelope(ctx, commonpb.HeaderType_CONFIG, ce)
	if err != nil {
		return nil, err
	}
	e, fault := wire.ParseEnvelope(env)
	if fault != nil {
		return nil, fmt.Errorf("CONFIG envelope made here: %w", fault)
	}
	if err := c.admit(ctx, cfg, env, e, ""); err != nil {
		var r *refusal
		if errors.As(err, &r) {
			return nil, &refusal{status: r.status, info: "config update for existing channel did not pass final checks: " + r.info, detail: r.detail}
		}
		return nil, err
	}
	return env, nil
}

// Authorize implements deliver.Chain.
func (c *chain) Authorize(ctx context.Context, r *deliver.Request) error {
	cfg := c.config.Load()
	path := readersPolicy
	if maintenance(cfg) {
		path = ordererReadersPolicy
	}
	id, why, err := c.signer(ctx, cfg, r.SignatureHeader.GetCreator(), r.Payload, r.Signature, false)
	if err == nil {
		err = c.permit(ctx, cfg, path, id, why, Access{Resource: ResourceDeliver, Caller: id, RemoteAddr: r.RemoteAddr})
	}
	var refused *refusal
	if errors.As(err, &refused) {
		return fmt.Errorf("%w: %w", deliver.ErrForbidden, refused)
	}
	return err
}

// maySign checks that an identity's signature alone makes a block valid.
func maySign(ctx context.Context, cfg *configtx.Config, local *msp.LocalIdentity) error {
	id, err := cfg.MSPs.Identity(ctx, local.Current().Serialized)
	if msp.IsInvalid(err) {
		return &notOrderer{fmt.Sprintf("this node's identity is not valid in channel %q, so peers would refuse its blocks: %v", cfg.ID, err)}
	}
	if err != nil {
		return fmt.Errorf("this node's identity: %w", err)
	}
	p, err := cfg.Policies.Policy(blockPolicy)
	if err != nil {
		return err
	}
	d, err := p.Evaluate(ctx, []*msp.Identity{id})
	if err != nil {
		return err
	}
	if !d.Allowed {
		return &notOrderer{fmt.Sprintf("this node's identity %s does not satisfy %s, so peers would refuse its blocks: %s", id, blockPolicy, d.Reason)}
	}
	return nil
}

// notOrderer is the verdict that this node may not sign the channel's blocks.
type notOrderer struct{ reason string }

func (e *notOrderer) Error() string { return e.reason }

// marshalEnvelope is an envelope as it goes into a block.
func marshalEnvelope(env *commonpb.Envelope) ([]byte, error) {
	raw, err := proto.Marshal(env)
	if err != nil {
		return nil, fmt.Errorf("encode envelope: %w", err)
	}
	return raw, nil
}
