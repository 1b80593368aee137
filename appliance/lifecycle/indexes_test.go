package lifecycle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	net "strongroom/appliance/endorser/endorsertest"
	"strongroom/chaincode/ccpackage"
	"strongroom/ledger"
	"strongroom/wire/lifecyclepb"
)

// TestKeepIndexes: the indexes of a chaincode's package are built when its definition
// is committed, approved and installed here, and not before.
func TestKeepIndexes(t *testing.T) {
	n := net.Start(t, nil, "Org1MSP", "Org2MSP")
	p := n.Peers[0]
	l := p.Channel.Ledger()
	ctx, cancel := context.WithCancel(t.Context())
	var keeping sync.WaitGroup
	keeping.Go(func() { p.Lifecycle.KeepIndexes(ctx, net.ChannelID) })
	defer keeping.Wait()
	defer cancel()
	if list, err := l.Indexes(); err != nil || len(list) > 0 {
		t.Fatalf("before: %v, %v", list, err)
	}
	n.Deploy(t, "kv")
	want := ledger.IndexStatus{Namespace: "kv", Index: "assets/owner", Ready: true}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		list, err := l.Indexes()
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 && list[0] == want {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("indexes are %v, want %v", list, want)
		}
	}
	// A package with a definition that is none is refused, and says which file it is.
	id, err := ccpackage.Write("bad_1.0", ccpackage.Connection{Address: "localhost:1"})
	if err != nil {
		t.Fatal(err)
	}
	resp := p.Query(t, p.Admin, net.Lifecycle(t, "", "InstallChaincode", &lifecyclepb.InstallChaincodeArgs{ChaincodeInstallPackage: withIndex(t, id, `{"index":[]}`)}))
	if resp.GetStatus() != 500 || !strings.Contains(resp.GetMessage(), "META-INF/statedb/couchdb/indexes/x.json: index: index is missing or no object") {
		t.Errorf("install of a bad index: %v", resp)
	}
}

// withIndex puts an index file into the code archive of a package.
func withIndex(t *testing.T, pkg []byte, definition string) []byte {
	t.Helper()
	rewrite := func(archive []byte, change func(name string, content []byte) []byte, more ...[2]string) []byte {
		zip, err := gzip.NewReader(bytes.NewReader(archive))
		if err != nil {
			t.Fatal(err)
		}
		in := tar.NewReader(zip)
		var out bytes.Buffer
		packed := gzip.NewWriter(&out)
		w := tar.NewWriter(packed)
		add := func(name string, content []byte) {
			if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
		}
		for {
			h, err := in.Next()
			if err != nil {
				break
			}
			var content bytes.Buffer
			if _, err := content.ReadFrom(in); err != nil {
				t.Fatal(err)
			}
			add(h.Name, change(h.Name, content.Bytes()))
		}
		for _, m := range more {
			add(m[0], []byte(m[1]))
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := packed.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	same := func(_ string, content []byte) []byte { return content }
	return rewrite(pkg, func(name string, content []byte) []byte {
		if name != "code.tar.gz" {
			return content
		}
		return rewrite(content, same, [2]string{ccpackage.IndexFolder + "/x.json", definition})
	})
}
