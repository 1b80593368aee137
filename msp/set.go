package msp

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"strongroom/bccsp"
	"strongroom/wire/msppb"
)

// Set is the MSPs of one channel under one configuration. It is immutable and
// safe for concurrent use. Verdicts on identities are remembered for its life.
type Set struct {
	verifier  bccsp.Verifier
	providers map[ID]*provider
	ids       []ID
}

// Option tunes a Set.
type Option func(*options)

type options struct {
	cacheSize int
	edwards   bool
	previous  *Set
}

// WithCacheSize bounds the valid identities that each MSP of the set remembers;
// 4096 without it. A quarter as many invalid ones are remembered besides.
func WithCacheSize(n int) Option { return func(o *options) { o.cacheSize = n } }

// WithPrevious names the set of the former configuration: an MSP whose
// configuration did not change is taken from it with what it remembers.
func WithPrevious(s *Set) Option { return func(o *options) { o.previous = s } }

// WithEdwardsKeys says that the channel has capability V3_0, under which Fabric
// takes Ed25519 identities: they give an *UnsupportedError then, and not an
// *InvalidError.
func WithEdwardsKeys() Option { return func(o *options) { o.edwards = true } }

// NewSet checks the MSP configurations of a channel, their certificate chains and
// revocation lists in the token, and makes a Set of them. Two of the same id are
// an error. An error that wraps a *TokenError is a failure; every other one says
// what is wrong with the configuration, the same on every node.
func NewSet(ctx context.Context, v bccsp.Verifier, configs []*msppb.MSPConfig, opts ...Option) (*Set, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	s := &Set{verifier: v, providers: make(map[ID]*provider, len(configs))}
	for _, c := range configs {
		m := o.previous.keep(v, c, o)
		if m == nil {
			var err error
			if m, err = newProvider(ctx, v, c, o); err != nil {
				return nil, err
			}
		}
		if s.providers[m.id] != nil {
			return nil, fmt.Errorf("MSP %q is defined twice: give each organisation an MSP id of its own", string(m.id))
		}
		s.providers[m.id] = m
		s.ids = append(s.ids, m.id)
	}
	slices.Sort(s.ids)
	return s, nil
}

// keep returns the provider that was made of the same configuration for the same
// token, or nil.
func (s *Set) keep(v bccsp.Verifier, c *msppb.MSPConfig, o options) *provider {
	if s == nil || reflect.TypeOf(v) != reflect.TypeOf(s.verifier) || !reflect.TypeOf(v).Comparable() || s.verifier != v {
		return nil
	}
	digest := configDigest(c, o.edwards)
	for _, m := range s.providers {
		if m.digest == digest {
			return m
		}
	}
	return nil
}

// IDs are the ids of the set's MSPs, sorted. The caller must not change them.
func (s *Set) IDs() []ID { return s.ids }

// TLSRoots are the TLS root certificates of an MSP, in PEM, as its configuration
// has them; nil for an MSP that is not in the set. The caller must not change them.
func (s *Set) TLSRoots(id ID) [][]byte {
	if m := s.providers[id]; m != nil {
		return m.tlsRoots
	}
	return nil
}

// TLSIntermediates are the TLS intermediate certificates of an MSP, as TLSRoots.
func (s *Set) TLSIntermediates(id ID) [][]byte {
	if m := s.providers[id]; m != nil {
		return m.tlsIntermediates
	}
	return nil
}

// Roots are the root certificates of an MSP, as TLSRoots.
func (s *Set) Roots(id ID) [][]byte {
	if m := s.providers[id]; m != nil {
		return m.roots
	}
	return nil
}

// Identity parses an msp.SerializedIdentity and validates it: its certificate
// chain in the token, revocation and organizational units, but not its expiry. The
// same bytes are validated once in the life of the set, also when many ask at the
// same time; serialized is not kept. The error is an *InvalidError when the bytes
// are not a valid identity of the channel, an *UnsupportedError when Fabric would
// take it and this node cannot; every other error is the token's (it wraps a
// *TokenError) or ctx's, and says nothing about the identity.
func (s *Set) Identity(ctx context.Context, serialized []byte) (*Identity, error) {
	if m := s.guess(serialized); m != nil {
		if id, err, ok := m.cache.get(m.cache.key(serialized), serialized); ok {
			return id, err
		}
	}
	m, _, err := s.parse(serialized)
	if err != nil {
		return nil, err
	}
	return m.cache.do(ctx, serialized, func(ctx context.Context, own []byte) (*Identity, error) {
		_, text, err := s.parse(own)
		if err != nil {
			return nil, err
		}
		return m.validate(ctx, own, text)
	})
}

// guess reads the MSP id where a plain encoding has it, for a look into the right
// cache without an allocation. A wrong guess finds nothing there.
func (s *Set) guess(serialized []byte) *provider {
	num, typ, n := protowire.ConsumeTag(serialized)
	if n < 0 || num != 1 || typ != protowire.BytesType {
		return nil
	}
	name, n := protowire.ConsumeBytes(serialized[n:])
	if n < 0 {
		return nil
	}
	return s.providers[ID(name)]
}

func (s *Set) parse(serialized []byte) (*provider, []byte, error) {
	sid := &msppb.SerializedIdentity{}
	if err := proto.Unmarshal(serialized, sid); err != nil {
		return nil, nil, &InvalidError{Reason: fmt.Sprintf("not an msp.SerializedIdentity: %v", err)}
	}
	m := s.providers[ID(sid.GetMspid())]
	if m == nil {
		return nil, nil, &InvalidError{MSPID: ID(sid.GetMspid()), Reason: "the channel has no such MSP"}
	}
	return m, sid.GetIdBytes(), nil
}

// IsInvalid tells whether an error of Identity is the verdict that the bytes are
// not a valid identity, and not a failure.
func IsInvalid(err error) bool {
	var invalid *InvalidError
	return errors.As(err, &invalid)
}
