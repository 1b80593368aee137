package pkcs11_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"pgregory.net/rapid"

	"strongroom/bccsp/pkcs11"
)

var curves = []elliptic.Curve{elliptic.P256(), elliptic.P384()}

type rs struct{ R, S *big.Int }

// oracleFabric reads a signature by the code that Fabric uses.
func oracleFabric(c elliptic.Curve, der []byte) ([]byte, bool) {
	var v rs
	if _, err := asn1.Unmarshal(der, &v); err != nil {
		return nil, false
	}
	return inOrder(c, v.R, v.S)
}

// oracleStrict reads a signature by the code that crypto/ecdsa uses.
func oracleStrict(c elliptic.Curve, der []byte) ([]byte, bool) {
	input, inner := cryptobyte.String(der), cryptobyte.String(nil)
	r, s := new(big.Int), new(big.Int)
	if !input.ReadASN1(&inner, cbasn1.SEQUENCE) || !input.Empty() ||
		!inner.ReadASN1Integer(r) || !inner.ReadASN1Integer(s) || !inner.Empty() {
		return nil, false
	}
	return inOrder(c, r, s)
}

func inOrder(c elliptic.Curve, r, s *big.Int) ([]byte, bool) {
	n := c.Params().N
	if r.Sign() <= 0 || s.Sign() <= 0 || r.Cmp(n) >= 0 || s.Cmp(n) >= 0 {
		return nil, false
	}
	out := make([]byte, 2*((n.BitLen()+7)/8))
	r.FillBytes(out[:len(out)/2])
	s.FillBytes(out[len(out)/2:])
	return out, true
}

func checkParsers(t interface{ Errorf(string, ...any) }, der []byte) {
	for _, c := range curves {
		for _, p := range []struct {
			name         string
			parse, check func(elliptic.Curve, []byte) ([]byte, bool)
		}{{"strict", pkcs11.ParseStrict, oracleStrict}, {"Fabric", pkcs11.ParseFabric, oracleFabric}} {
			got, ok := p.parse(c, der)
			want, wantOK := p.check(c, der)
			if ok != wantOK || ok && !bytes.Equal(got, want) {
				t.Errorf("%s, %s, %x: got %x %t, want %x %t", p.name, c.Params().Name, der, got, ok, want, wantOK)
			}
		}
	}
}

func TestParseEdges(t *testing.T) {
	for _, text := range []string{
		"", "30", "3000", "3080", "30060201010201010000", "3006020101020101",
		"300702010102020001",         // s not minimal
		"3007020200ff020101",         // r needs its zero
		"30070202007f020101",         // r's zero is one too many
		"3006020100020101",           // r is zero
		"30060201ff020101",           // r is negative
		"308106020101020101",         // length not minimal
		"30820006020101020101",       // length not minimal, two bytes
		"3009020101020101020103",     // a third integer
		"300602010102010105",         // a byte after
		"3008020101020101" + "0500",  // a NULL after s
		"1f300602010102010100",       // high tag form
		"2406020101020101",           // another tag
		"30060281010102010100000000", // inner length not minimal
		"3005020101020100" + "ff",    // s is zero, and short
	} {
		der, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		checkParsers(t, der)
	}
	for _, c := range curves {
		n := c.Params().N
		for _, v := range []*big.Int{big.NewInt(1), new(big.Int).Rsh(n, 1), new(big.Int).Sub(n, big.NewInt(1)), n, new(big.Int).Add(n, big.NewInt(1)), new(big.Int).Lsh(n, 8)} {
			der, err := asn1.Marshal(rs{v, v})
			if err != nil {
				t.Fatal(err)
			}
			checkParsers(t, der)
			checkParsers(t, append(der, 1, 2, 3))
		}
	}
}

func FuzzParseSignature(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	digest := sha256.Sum256(nil)
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sig)
	f.Add([]byte{0x30, 6, 2, 1, 1, 2, 1, 1})
	f.Add([]byte{0x30, 9, 2, 1, 1, 2, 1, 1, 2, 1, 1, 0})
	f.Fuzz(func(t *testing.T, der []byte) { checkParsers(t, der) })
}

// TestEncode holds normalization and encoding against big integers.
func TestEncode(t *testing.T) {
	for _, c := range curves {
		n := c.Params().N
		size := (n.BitLen() + 7) / 8
		rapid.Check(t, func(rt *rapid.T) {
			draw := func(name string) *big.Int {
				v := new(big.Int).SetBytes(rapid.SliceOfN(rapid.Byte(), 1, size).Draw(rt, name))
				return v.Add(v.Mod(v, new(big.Int).Sub(n, big.NewInt(1))), big.NewInt(1))
			}
			r, s := draw("r"), draw("s")
			raw := append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
			der, err := pkcs11.Encode(c, raw)
			if err != nil {
				rt.Fatal(err)
			}
			if s.Cmp(new(big.Int).Rsh(n, 1)) > 0 {
				s.Sub(n, s)
			}
			want, err := asn1.Marshal(rs{r, s})
			if err != nil {
				rt.Fatal(err)
			}
			if !bytes.Equal(der, want) {
				rt.Fatalf("got %x, want %x", der, want)
			}
		})
		zero := make([]byte, 2*size)
		for _, bad := range [][]byte{nil, zero, zero[1:], bytes.Repeat([]byte{0xff}, 2*size)} {
			if _, err := pkcs11.Encode(c, bad); err == nil {
				t.Errorf("%s: took %x for a signature", c.Params().Name, bad)
			}
		}
	}
}
