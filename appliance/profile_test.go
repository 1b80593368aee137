package appliance_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"strongroom/appliance"
	"strongroom/appliance/config"
	"strongroom/bccsp/bccsptest"
	profiles "strongroom/firmware-profiles"
)

// nssReserved is of the form that NSS softokn wants.
const nssReserved = "configdir='sql:/d' certPrefix='' keyPrefix='' secmod='secmod.db' flags="

func TestOpenTokenObeysTheProfile(t *testing.T) {
	ctx, made := context.Background(), bccsptest.Config(t)
	c := config.Token{Module: made.Module, Label: made.TokenLabel, PIN: config.PIN{File: made.PIN.File}}
	for _, profile := range []string{"", "softhsm-2.6", "softhsm-2.7"} {
		c.Profile = profile
		token, err := appliance.OpenToken(ctx, c, nil)
		if err != nil {
			t.Fatalf("%q: %v", profile, err)
		}
		if err := token.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		change func(*config.Token)
		want   string
	}{
		{func(c *config.Token) { c.Profile = "yubihsm-2" }, "takes no public keys"},
		{func(c *config.Token) { c.Profile = "marvell-liquidsecurity" }, "is not known"},
		{func(c *config.Token) { c.Profile, c.Reserved, c.WrappingKey = "nss-softokn-3.87", nssReserved, "w" }, "can be wrapped out"},
		{func(c *config.Token) { c.Profile, c.Sessions = "aws-cloudhsm-sdk5", 1024 }, "takes 1024"},
		{func(c *config.Token) { c.Profile = "nss-softokn-3.87" }, "does not start without a string"},
		{func(c *config.Token) { c.Profile, c.Reserved = "nss-softokn-3.87", "configdir='sql:/d'" }, "does not set certPrefix"},
		{func(c *config.Token) { c.Profile, c.Reserved = "softhsm-2.6", "x" }, "takes no string"},
		{func(c *config.Token) { c.Profile = "enigma" }, "no firmware profile"},
	} {
		bad := c
		tt.change(&bad)
		_, err := appliance.OpenToken(ctx, bad, nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "token.profile") {
			t.Errorf("%s: got %v, want %q", bad.Profile, err, tt.want)
		}
		if refused := errors.Is(err, profiles.ErrRefused); refused != (bad.Profile != "enigma") {
			t.Errorf("%s: ErrRefused is %t", bad.Profile, refused)
		}
	}
}
