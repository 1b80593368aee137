package ccpackage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var connection = Connection{Address: "cc.example:9999", DialTimeout: Duration(10 * time.Second)}

func TestWriteThenParse(t *testing.T) {
	a, err := Write("basic_1.0", connection)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Write("basic_1.0", connection)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two packages of the same content differ")
	}
	p, err := Parse(a)
	if err != nil {
		t.Fatal(err)
	}
	want := &Package{ID: ID("basic_1.0", a), Label: "basic_1.0", Type: TypeService, Connection: connection}
	if d := cmp.Diff(want, p); d != "" {
		t.Error(d)
	}
	if err := CheckID(p.ID); err != nil {
		t.Error(err)
	}
	// The id of this package, forever: operators compare ids between peers.
	if want := "basic_1.0:" + pinned; p.ID != want {
		t.Errorf("the id is %s, want %s", p.ID, want)
	}
}

const pinned = "37aeb7c3d3ac0b6bfb066994609289261032d46255388f6550e696ec60789fcd"

// A package as Fabric's tools write it, with index definitions and other fields.
func TestParseFabricPackage(t *testing.T) {
	index := file{"META-INF/statedb/couchdb/indexes/owner.json", []byte(`{"index":{}}`)}
	code := archive(t, file{"./connection.json", []byte(`{"address":"{{.peername}}_cc:9999","dial_timeout":"10s","tls_required":false,"root_cert":""}`)}, index)
	p, err := Parse(archive(t, file{"metadata.json", []byte(`{"path":"","type":"ccaas","label":"basic","more":1}`)}, file{"code.tar.gz", code}))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string][]byte{index.name: index.content}, p.MetaInf); d != "" {
		t.Error(d)
	}
	c, err := p.Connection.Resolve(map[string]string{"peername": "peer0"})
	if err != nil || c.Address != "peer0_cc:9999" || c.Timeout() != 10*time.Second {
		t.Errorf("%v %v", c, err)
	}
	if _, err := p.Connection.Resolve(nil); err == nil || !strings.Contains(err.Error(), "no value for {{.peername}}") {
		t.Errorf("%v", err)
	}
}

func archive(t testing.TB, files ...file) []byte {
	t.Helper()
	b, err := pack(files...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseRefuses(t *testing.T) {
	meta := file{"metadata.json", []byte(`{"type":"ccaas","label":"basic"}`)}
	conn := file{"connection.json", []byte(`{"address":"cc:9999","tls_required":false}`)}
	code := func(files ...file) file { return file{"code.tar.gz", archive(t, files...)} }
	link := func() []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		w := tar.NewWriter(z)
		if err := w.WriteHeader(&tar.Header{Name: "metadata.json", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}()
	many := make([]file, maxFiles+1)
	for i := range many {
		many[i] = file{"META-INF/" + strings.Repeat("x", i%90+1) + string(rune('a'+i/90)), nil}
	}
	for _, c := range []struct {
		name string
		pkg  []byte
		want string
	}{
		{"empty", nil, "not a gzip archive"},
		{"not tar", gz(t, bytes.Repeat([]byte("x"), 1000)), "not a tar archive"},
		{"large", make([]byte, MaxPackageBytes+1), "at most"},
		{"bomb", gz(t, tarOf(t, file{"metadata.json", make([]byte, maxUnpacked+10)})), "unpacks to more than"},
		{"bomb of nothing", gz(t, make([]byte, maxUnpacked+10)), "metadata.json is missing"},
		{"many", archive(t, meta, file{"code.tar.gz", archive(t, many...)}), "more than 1000 entries"},
		{"link", link, "links and devices are refused"},
		{"traversal", archive(t, meta, file{"../../etc/cron", nil}), "leads out of the package"},
		{"absolute", archive(t, file{"/metadata.json", nil}), "leads out of the package"},
		{"twice", archive(t, meta, meta, code(conn)), "is there twice"},
		{"no metadata", archive(t, code(conn)), "metadata.json is missing"},
		{"no code", archive(t, meta), "code.tar.gz is missing"},
		{"other file", archive(t, meta, code(conn), file{"x", nil}), `unexpected file "x"`},
		{"other code", archive(t, meta, code(conn, file{"main.go", nil})), `unexpected file "main.go"`},
		{"no connection", archive(t, meta, code()), "connection.json is missing"},
		{"metadata no json", archive(t, file{"metadata.json", []byte("{")}, code(conn)), "metadata.json"},
		{"no type", archive(t, file{"metadata.json", []byte(`{"label":"basic"}`)}, code(conn)), "type is missing"},
		{"golang", archive(t, file{"metadata.json", []byte(`{"type":"golang","label":"basic"}`)}, code(conn)), "run it as a service"},
		{"label", archive(t, file{"metadata.json", []byte(`{"type":"ccaas","label":"../x"}`)}, code(conn)), `label "../x" is invalid`},
		{"connection", archive(t, meta, code(file{"connection.json", []byte(`{"adress":"x"}`)})), `unknown field "adress"`},
	} {
		_, err := Parse(c.pkg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// tarOf is pack without the compression.
func tarOf(t *testing.T, f file) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(archive(t, f)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func gz(t *testing.T, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestParseConnectionRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                      "address is missing",
		`{"address":"nohost"}`:    "is not host:port",
		`{"address":":9999"}`:     "is not host:port",
		`{"address":"a:0"}`:       "is not 1 to 65535",
		`{"address":"a:1"} {}`:    "more after the object",
		`[]`:                      "connection.json",
		`{"address":"a:1","x":1}`: `unknown field "x"`,
		`{"address":"a:1","dial_timeout":"soon"}`:                           "is not a duration",
		`{"address":"a:1","dial_timeout":true}`:                             "neither a duration",
		`{"address":"a:1","dial_timeout":"-1s"}`:                            "out of range",
		`{"address":"a:1","client_auth_required":true}`:                     "tls_required is false",
		`{"address":"a:1","tls_required":true}`:                             "root_cert is missing",
		`{"address":"a:1","tls_required":true,"root_cert":"x"}`:             "no PEM certificate",
		`{"address":"{{.peername}}:1","tls_required":true,"root_cert":"x"}`: "no PEM certificate",
	} {
		if _, err := ParseConnection([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	c, err := ParseConnection([]byte(`{"address":"a:1","dial_timeout":3000000000,"tls_required":false}`))
	if err != nil || c.Timeout() != 3*time.Second {
		t.Errorf("%v %v", c, err)
	}
}

func TestLabels(t *testing.T) {
	for label, good := range map[string]bool{"a": true, "basic_1.0": true, "A+b-c.d_e": true, "": false, "-a": false, "a/b": false, "a:b": false, "a\n": false, strings.Repeat("a", 257): false} {
		if err := CheckLabel(label); (err == nil) != good {
			t.Errorf("%q: %v", label, err)
		}
		if _, err := Write(label, connection); (err == nil) != good {
			t.Errorf("write %q: %v", label, err)
		}
	}
	for id, good := range map[string]bool{"a:" + strings.Repeat("0a", 32): true, "a:" + strings.Repeat("0A", 32): false, "a": false, "a:00": false, ":" + strings.Repeat("00", 32): false} {
		if err := CheckID(id); (err == nil) != good {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// Whatever parses can be written again and means the same.
func FuzzParse(f *testing.F) {
	good, err := Write("basic_1.0", connection)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(archive(f, file{"metadata.json", []byte(`{"type":"external","label":"x"}`)}, file{"code.tar.gz", archive(f, file{"connection.json", []byte(`{"address":"{{.peername}}:1"}`)})}))
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		if err := CheckID(p.ID); err != nil {
			t.Fatal(err)
		}
		again, err := Write(p.Label, p.Connection)
		if err != nil {
			t.Fatal(err)
		}
		q, err := Parse(again)
		if err != nil {
			t.Fatal(err)
		}
		if q.Connection != p.Connection || q.Label != p.Label {
			t.Fatalf("%+v became %+v", p, q)
		}
	})
}

// Most mutations of a gzip archive end at its checksum; connection.json deserves
// a target of its own.
func FuzzParseConnection(f *testing.F) {
	f.Add([]byte(`{"address":"a:1","dial_timeout":"10s","tls_required":false}`))
	f.Add([]byte(`{"address":"{{.peername}}:1","dial_timeout":1}`))
	f.Add([]byte(`{"address":"a:1","tls_required":true,"root_cert":"-----BEGIN CERTIFICATE-----"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConnection(b)
		if err != nil {
			return
		}
		if _, err := Write("l", c); err != nil {
			t.Fatal(err)
		}
		if r, err := c.Resolve(map[string]string{"peername": "p"}); err == nil && strings.Contains(r.Address, "{{") {
			t.Fatalf("unresolved %q", r.Address)
		}
	})
}

func TestIndexes(t *testing.T) {
	owner := []byte(`{"index":{"fields":["owner"]},"ddoc":"d","name":"owner"}`)
	pkg, err := WriteIndexed("basic", connection, map[string][]byte{"owner.json": owner, "a.json": []byte(`{"index":{"fields":["a"]},"ddoc":"d","name":"a"}`)})
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(pkg)
	if err != nil {
		t.Fatal(err)
	}
	p.MetaInf["META-INF/statedb/couchdb/collections/c/indexes/x.json"] = owner
	p.MetaInf["META-INF/readme.txt"] = nil
	list, ignored, err := p.Indexes()
	if err != nil || len(list) != 2 || list[0].String() != "d/a" || list[1].String() != "d/owner" {
		t.Errorf("indexes %v, %v", list, err)
	}
	want := []string{
		"META-INF/readme.txt: index definitions are META-INF/statedb/couchdb/indexes/*.json",
		"META-INF/statedb/couchdb/collections/c/indexes/x.json: private data is not indexed",
	}
	if d := cmp.Diff(want, ignored); d != "" {
		t.Error(d)
	}
	p.MetaInf[IndexFolder+"/bad.json"] = []byte(`{"index":{}}`)
	if _, _, err := p.Indexes(); err == nil || err.Error() != IndexFolder+"/bad.json: index: index.fields is missing or empty; name the fields to index" {
		t.Errorf("a bad definition: %v", err)
	}
	for name, content := range map[string]string{"sub/owner.json": string(owner), "owner.txt": string(owner), "bad.json": "{}"} {
		if _, err := WriteIndexed("basic", connection, map[string][]byte{name: []byte(content)}); err == nil {
			t.Errorf("%s was written", name)
		}
	}
}
