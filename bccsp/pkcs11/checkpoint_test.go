package pkcs11_test

import (
	"bytes"
	"context"
	"testing"

	"strongroom/bccsp/bccsptest"
)

// A checkpoint is replaced by the next one, kept apart by its name, and still there
// for the next who opens the token.
func TestCheckpoint(t *testing.T) {
	cfg := bccsptest.Config(t)
	ctx := context.Background()
	token := bccsptest.OpenWith(t, cfg)
	one := func(name string, want []byte) {
		t.Helper()
		got, err := token.LoadCheckpoints(ctx, name)
		if err != nil || want == nil && len(got) != 0 || want != nil && (len(got) != 1 || !bytes.Equal(got[0], want)) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	one("peer main", nil)
	for _, record := range [][]byte{[]byte("height 1"), []byte("height 2"), bytes.Repeat([]byte{7}, 4096)} {
		if err := token.StoreCheckpoint(ctx, "peer main", record); err != nil {
			t.Fatal(err)
		}
		one("peer main", record)
		one("peer other", nil)
	}
	for _, size := range []int{0, 4097} {
		if err := token.StoreCheckpoint(ctx, "peer main", make([]byte, size)); err == nil {
			t.Errorf("a checkpoint of %d bytes is taken", size)
		}
	}
	if err := token.Close(); err != nil {
		t.Fatal(err)
	}
	token = bccsptest.OpenWith(t, cfg)
	one("peer main", bytes.Repeat([]byte{7}, 4096))
}
