package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"strongroom/bccsp/bccsptest"
)

func TestDaysLeft(t *testing.T) {
	end := time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)
	for left, want := range map[time.Duration]int{
		48 * time.Hour: 2, 47 * time.Hour: 1, time.Second: 0, 0: 0, -time.Second: -1, -24 * time.Hour: -1, -25 * time.Hour: -2,
	} {
		if got := daysLeft(&x509.Certificate{NotAfter: end}, end.Add(-left)); got != want {
			t.Errorf("%s before the end: %d days left, want %d", left, got, want)
		}
	}
}

func TestListIdentity(t *testing.T) {
	token := bccsptest.OpenShared(t)
	ca := bccsptest.NewCA(t, token, "Org1MSP")
	peer := ca.Issue(t, "peer0", "peer")
	software, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, outside := ca.IssueFor(t, software.Public(), "other", "peer")
	key, err := token.GenerateKey(t.Context(), "list-tls", elliptic.P384())
	if err != nil {
		t.Fatal(err)
	}
	tlsCert, tlsPEM := ca.IssueFor(t, key.ECDSA(), "peer0-tls", "")
	dir := t.TempDir()
	file := func(name string, pem []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	end := peer.Certificate.NotAfter
	for _, c := range []struct {
		name, use, file, label string
		now                    time.Time
		problem                string
		matches                bool
	}{
		{"identity", useIdentity, file("peer.pem", peer.CertPEM), peer.Label, end.Add(-72 * time.Hour), "", true},
		{"TLS", useTLS, file("tls.pem", tlsPEM), "list-tls", tlsCert.NotAfter.Add(-72 * time.Hour), "", true},
		{"a key outside the token", useIdentity, file("other.pem", outside), peer.Label, end.Add(-72 * time.Hour), "not found in the token", false},
		{"a key for the other use", useTLS, file("peer.pem", peer.CertPEM), "list-tls", end.Add(-72 * time.Hour), "serves an identity already", false},
		{"a rotated key", useIdentity, file("peer.pem", peer.CertPEM), "the first label", end.Add(-72 * time.Hour), "", true},
		{"ended", useIdentity, file("peer.pem", peer.CertPEM), peer.Label, end.Add(time.Hour), "renew it", true},
		{"not begun", useIdentity, file("peer.pem", peer.CertPEM), peer.Label, end.AddDate(-10, 0, 0), "clock", true},
		{"no such file", useIdentity, filepath.Join(dir, "none.pem"), peer.Label, end, "none.pem", false},
	} {
		l := listIdentity(t.Context(), token, c.use, c.file, c.label, c.now)
		if (l.Problem == "") != (c.problem == "") || !strings.Contains(l.Problem, c.problem) || l.Matches != c.matches {
			t.Errorf("%s: %+v; want problem %q, matches %t", c.name, l, c.problem, c.matches)
		}
		if c.problem == "" && l.DaysLeft != 3 {
			t.Errorf("%s: %d days left, want 3", c.name, l.DaysLeft)
		}
	}
}
