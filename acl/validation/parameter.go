package validation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"strongroom/policy"
	"strongroom/wire/peerpb"
)

// Plugin is the validation plugin that a chaincode definition names for rules of this
// package. A Fabric peer has no plugin of that name and stops the channel at the first
// transaction of the chaincode.
const Plugin = "strongroom.rego"

// Package is the Rego package that decides.
const Package = "strongroom.validate"

// rulesField is the field of protos.ApplicationPolicy, unknown to Fabric, in which the
// rules stand: whoever reads the parameter as an ApplicationPolicy finds the endorsement
// policy, as gateways and service discovery do.
//
//	message Rules {                 // field 1000 of protos.ApplicationPolicy
//	  string ledger_rules = 1;      // policy.LedgerRules of those who agreed on it
//	  bytes digest = 2;             // policy.Program.Digest
//	  repeated File files = 3;      // sorted by name
//	}
//	message File { string name = 1; bytes rego = 2; }
const rulesField protowire.Number = 1000

// MaxParameter bounds a validation parameter, in bytes.
const MaxParameter = 256 << 10

// ErrInvalid is wrapped by errors that say that a parameter is at fault: each peer finds the
// same, and refuses every transaction that the rules would be asked about.
var ErrInvalid = errors.New("invalid validation rules")

// ErrOtherRules is wrapped by the error for rules that were agreed on for another
// evaluator: what this node would say of them decides nothing.
var ErrOtherRules = errors.New("validation rules for another version")

// Rules are the compiled rules of one chaincode definition. They are immutable and safe
// for concurrent use.
type Rules struct{ program *policy.Program }

// Digest names the rules.
func (r *Rules) Digest() policy.Digest { return r.program.Digest() }

// Program is what to give to package policy for rules of this package, besides their source.
func Program() policy.ProgramConfig {
	return policy.ProgramConfig{Package: Package, Schema: InputSchema, Ledger: true}
}

// Compose makes a validation parameter of a marshalled protos.ApplicationPolicy and rules:
// .rego files by name, their tests (*_test.rego) among them, which must pass and are left out.
// The error names the file, the line and what to do.
func Compose(ctx context.Context, endorsement []byte, files map[string][]byte) ([]byte, error) {
	p, err := policy.ParseProgram(ctx, Program(), files)
	if err != nil {
		return nil, fmt.Errorf("validation rules: %w", err)
	}
	known := new(peerpb.ApplicationPolicy)
	if err := proto.Unmarshal(endorsement, known); err != nil || known.GetType() == nil || len(known.ProtoReflect().GetUnknown()) > 0 {
		return nil, fmt.Errorf("validation rules: the endorsement policy is not a protos.ApplicationPolicy (%w)", errors.Join(err, ErrInvalid))
	}
	digest := p.Digest()
	var rules []byte
	rules = protowire.AppendTag(rules, 1, protowire.BytesType)
	rules = protowire.AppendString(rules, policy.LedgerRules())
	rules = protowire.AppendTag(rules, 2, protowire.BytesType)
	rules = protowire.AppendBytes(rules, digest[:])
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if policy.IsTest(name) {
			continue
		}
		var file []byte
		file = protowire.AppendTag(file, 1, protowire.BytesType)
		file = protowire.AppendString(file, name)
		file = protowire.AppendTag(file, 2, protowire.BytesType)
		file = protowire.AppendBytes(file, files[name])
		rules = protowire.AppendTag(rules, 3, protowire.BytesType)
		rules = protowire.AppendBytes(rules, file)
	}
	out := slices.Clone(endorsement)
	out = protowire.AppendTag(out, rulesField, protowire.BytesType)
	out = protowire.AppendBytes(out, rules)
	if len(out) > MaxParameter {
		return nil, fmt.Errorf("validation rules: %d bytes with the endorsement policy: at most %d are taken", len(out), MaxParameter)
	}
	return out, nil
}

// Parse compiles the rules of a validation parameter. The error wraps ErrInvalid for what every
// peer refuses alike, ErrOtherRules for what this node must not judge.
func Parse(parameter []byte) (*Rules, error) {
	if len(parameter) > MaxParameter {
		return nil, fmt.Errorf("%w: %d bytes: at most %d are taken", ErrInvalid, len(parameter), MaxParameter)
	}
	known := new(peerpb.ApplicationPolicy)
	if err := proto.Unmarshal(parameter, known); err != nil {
		return nil, fmt.Errorf("%w: the parameter is not a protos.ApplicationPolicy", ErrInvalid)
	}
	message, err := single(known.ProtoReflect().GetUnknown())
	if err != nil {
		return nil, err
	}
	version, digest, files, err := parseRules(message)
	if err != nil {
		return nil, err
	}
	if version != policy.LedgerRules() {
		return nil, fmt.Errorf("%w: they are for %q, this node evaluates by %q: agree on them again with nodes of one version", ErrOtherRules, version, policy.LedgerRules())
	}
	p, err := policy.ParseProgram(context.Background(), Program(), files)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if d := p.Digest(); !bytes.Equal(d[:], digest) {
		return nil, fmt.Errorf("%w: the digest of the files is %s, the parameter says %x", ErrInvalid, d, digest)
	}
	return &Rules{program: p}, nil
}

// single takes the one field that carries rules out of those that Fabric does not know.
func single(unknown []byte) ([]byte, error) {
	number, kind, n := protowire.ConsumeTag(unknown)
	if n < 0 || number != rulesField || kind != protowire.BytesType {
		return nil, fmt.Errorf("%w: the parameter carries no rules: make it with `strongroom chaincode approve --validation-rules`", ErrInvalid)
	}
	message, m := protowire.ConsumeBytes(unknown[n:])
	if m < 0 || n+m != len(unknown) {
		return nil, fmt.Errorf("%w: something follows the rules", ErrInvalid)
	}
	return message, nil
}

// each walks the fields of a message, all of which must hold bytes.
func each(message []byte, take func(number protowire.Number, value []byte) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 || kind != protowire.BytesType {
			return fmt.Errorf("%w: they do not parse", ErrInvalid)
		}
		value, m := protowire.ConsumeBytes(message[n:])
		if m < 0 {
			return fmt.Errorf("%w: they do not parse", ErrInvalid)
		}
		if err := take(number, value); err != nil {
			return err
		}
		message = message[n+m:]
	}
	return nil
}

func parseRules(message []byte) (version string, digest []byte, files map[string][]byte, err error) {
	files = map[string][]byte{}
	last, name := protowire.Number(0), ""
	err = each(message, func(number protowire.Number, value []byte) error {
		if number < last || number == last && number != 3 {
			return fmt.Errorf("%w: field %d is out of order", ErrInvalid, number)
		}
		last = number
		switch number {
		case 1:
			version = string(value)
		case 2:
			digest = value
		case 3:
			next, rego, err := parseFile(value)
			if err != nil {
				return err
			}
			if next <= name || policy.IsTest(next) {
				return fmt.Errorf("%w: file %q is out of order, or a test", ErrInvalid, next)
			}
			name, files[next] = next, rego
		default:
			return fmt.Errorf("%w: field %d is not known", ErrInvalid, number)
		}
		return nil
	})
	return version, digest, files, err
}

func parseFile(message []byte) (name string, rego []byte, err error) {
	last := protowire.Number(0)
	err = each(message, func(number protowire.Number, value []byte) error {
		if number != last+1 || number > 2 {
			return fmt.Errorf("%w: field %d of a file", ErrInvalid, number)
		}
		last = number
		if number == 1 {
			name = string(value)
		} else {
			rego = value
		}
		return nil
	})
	if err == nil && (last != 2 || name == "") {
		err = fmt.Errorf("%w: a file lacks its name or its text", ErrInvalid)
	}
	return name, rego, err
}
