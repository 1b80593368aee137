package pkcs11

import (
	"context"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp"
)

var _ bccsp.Checkpoints = (*Token)(nil)

const (
	// checkpointApplication is the CKA_APPLICATION of checkpoints.
	checkpointApplication = "strongroom checkpoint"
	maxCheckpoint         = 4096
	// maxCheckpoints bounds how many records of one name interrupted writes may leave.
	maxCheckpoints = 64
)

// checkpointTemplate finds the checkpoints of a name: private data objects of the
// token (PKCS #11 2.40 section 4.5), which only a session that is logged in sees.
func checkpointTemplate(name string) []*p11.Attribute {
	return []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_DATA),
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_APPLICATION, checkpointApplication),
		p11.NewAttribute(p11.CKA_LABEL, name),
	}
}

// LoadCheckpoints implements bccsp.Checkpoints.
func (t *Token) LoadCheckpoints(ctx context.Context, name string) ([][]byte, error) {
	var records [][]byte
	err := t.ask(ctx, "checkpoint", func(s *session) error {
		records = nil
		objects, err := s.find(maxCheckpoints, checkpointTemplate(name)...)
		if err != nil {
			return err
		}
		for _, o := range objects {
			record, err := s.attribute(o, p11.CKA_VALUE)
			if err != nil {
				return err
			}
			records = append(records, record)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("checkpoint %q: %w", name, err)
	}
	return records, nil
}

// StoreCheckpoint implements bccsp.Checkpoints: it makes the new object, then
// destroys the ones that were there.
func (t *Token) StoreCheckpoint(ctx context.Context, name string, record []byte) error {
	if len(record) == 0 || len(record) > maxCheckpoint {
		return fmt.Errorf("checkpoint %q has %d bytes: 1 to %d are possible", name, len(record), maxCheckpoint)
	}
	err := t.pool.do(ctx, "checkpoint", func(s *session) error {
		old, err := s.find(maxCheckpoints, checkpointTemplate(name)...)
		if err != nil {
			return err
		}
		template := append(checkpointTemplate(name),
			p11.NewAttribute(p11.CKA_MODIFIABLE, false), p11.NewAttribute(p11.CKA_VALUE, record))
		if _, err := s.token.module.ctx.CreateObject(s.handle, template); err != nil {
			return s.err("C_CreateObject", err)
		}
		var errs []error
		for _, o := range old {
			errs = append(errs, s.err("C_DestroyObject", s.token.module.ctx.DestroyObject(s.handle, o)))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("checkpoint %q: %w", name, err)
	}
	return nil
}
