package auditlog

import "context"

// Trail takes administrative acts; *Log is one. A part of the node that has acts to record
// takes a Trail and calls Append or Do.
type Trail interface {
	// Act records an act. When it returns without an error the record is on disk.
	Act(ctx context.Context, a Act) error
}

// Append records an act, or nothing if t is nil. What is about to be done is recorded
// before it is done, and not done if the record cannot be kept; Do does so.
func Append(ctx context.Context, t Trail, a Act) error {
	if t == nil {
		return nil
	}
	return t.Act(ctx, a)
}

// Do records an act, does it, and records why if it fails.
func Do(ctx context.Context, t Trail, a Act, do func() error) error {
	if err := Append(ctx, t, a); err != nil {
		return err
	}
	err := do()
	if err != nil {
		a.Failed = err.Error()
		if recorded := Append(context.WithoutCancel(ctx), t, a); recorded != nil {
			return recorded
		}
	}
	return err
}
