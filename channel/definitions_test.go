package channel

import (
	"testing"

	"strongroom/channel/lifecycle"
	"strongroom/wire"
	"strongroom/wire/peerpb"
)

// oneDefinition is a state with one chaincode definition, that calls during while
// it is read.
type oneDefinition struct {
	values map[string][]byte
	during func()
}

func (s *oneDefinition) Get(_, key string) ([]byte, error) {
	if s.during != nil {
		s.during()
	}
	return s.values[key], nil
}

func (s *oneDefinition) Put(_, key string, value []byte) error { s.values[key] = value; return nil }
func (s *oneDefinition) Delete(_, key string) error            { delete(s.values, key); return nil }

func newDefinition(t *testing.T, version string) *oneDefinition {
	t.Helper()
	s := &oneDefinition{values: map[string][]byte{}}
	if err := lifecycle.WriteDefinition(s, &lifecycle.Definition{Name: "kv", Sequence: 1, Version: version}); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDefinitionsAreForgottenAtTheRightTime(t *testing.T) {
	commit, err := wire.ParseBlock(readBlock(t, 3))
	if err != nil {
		t.Fatal(err)
	}
	approval, err := wire.ParseBlock(readBlock(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	flags := []peerpb.TxValidationCode{valid}
	d := &definitions{}
	version := func(s *oneDefinition) string {
		t.Helper()
		definition, err := d.read(s, "kv")
		if err != nil {
			t.Fatal(err)
		}
		return definition.Version
	}
	if got := version(newDefinition(t, "1")); got != "1" {
		t.Errorf("version is %s", got)
	}
	if got := version(newDefinition(t, "2")); got != "1" {
		t.Errorf("version 1 was not remembered, got %s", got)
	}
	d.committed(approval, flags) // writes to a collection of _lifecycle alone
	d.committed(commit, []peerpb.TxValidationCode{peerpb.TxValidationCode_MVCC_READ_CONFLICT})
	if got := version(newDefinition(t, "2")); got != "1" {
		t.Errorf("version 1 was forgotten without a reason, got %s", got)
	}
	d.committed(commit, flags)
	if got := version(newDefinition(t, "2")); got != "2" {
		t.Errorf("version 1 was not forgotten, got %s", got)
	}
}

// TestOldDefinitionIsNotRemembered reads a definition from a snapshot that becomes
// old while it is read.
func TestOldDefinitionIsNotRemembered(t *testing.T) {
	commit, err := wire.ParseBlock(readBlock(t, 3))
	if err != nil {
		t.Fatal(err)
	}
	d := &definitions{}
	old := newDefinition(t, "1")
	old.during = func() {
		old.during = nil
		d.committed(commit, []peerpb.TxValidationCode{valid})
	}
	if definition, err := d.read(old, "kv"); err != nil || definition.Version != "1" {
		t.Fatalf("definition is %+v (%v)", definition, err)
	}
	if definition, err := d.read(newDefinition(t, "2"), "kv"); err != nil || definition.Version != "2" {
		t.Errorf("the old definition was remembered: %+v (%v)", definition, err)
	}
}
