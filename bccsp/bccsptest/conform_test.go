package bccsptest_test

import (
	"context"
	"testing"

	"strongroom/bccsp/bccsptest"
)

func TestSoftHSMConforms(t *testing.T) {
	cfg := bccsptest.Config(t)
	keeper := bccsptest.OpenWith(t, cfg)
	if err := keeper.GenerateWrappingKey(context.Background(), bccsptest.WrappingKeyLabel); err != nil {
		t.Fatal(err)
	}
	cfg.WrappingKeyLabel = bccsptest.WrappingKeyLabel
	bccsptest.Conform(t, func(t testing.TB, sessions, keyCache int) bccsptest.Driver {
		cfg := cfg
		cfg.Sessions, cfg.KeyCache = sessions, keyCache
		return bccsptest.OpenWith(t, cfg)
	})
}
