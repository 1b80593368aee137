package chaincode_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"strongroom/chaincode"
	"strongroom/chaincode/chaincodetest"
	"strongroom/chaincode/shim"
	"strongroom/wire/peerpb"

	"github.com/google/go-cmp/cmp"
)

// everything is chaincode that passes its arguments to the stub's methods and
// returns what they return as JSON.
type everything struct{}

func (everything) Init(stub *shim.Stub) shim.Response {
	_, args := stub.GetFunctionAndParameters()
	if len(args) > 0 && args[0] == "bad" {
		return shim.Error("cannot initialise")
	}
	if err := stub.PutState("initialised", []byte("yes")); err != nil {
		return shim.Error(err.Error())
	}
	return shim.Success([]byte("init ran"))
}

func (everything) Invoke(stub *shim.Stub) shim.Response {
	f, args := stub.GetFunctionAndParameters()
	result, err := everything{}.run(stub, f, args)
	if err != nil {
		return shim.Error(err.Error())
	}
	if r, ok := result.(shim.Response); ok {
		return r
	}
	b, err := json.Marshal(result)
	if err != nil {
		return shim.Error(err.Error())
	}
	return shim.Success(b)
}

type row struct{ Key, Value string }

func (everything) run(stub *shim.Stub, f string, args []string) (any, error) {
	switch f {
	case "put":
		return "ok", stub.PutState(args[0], []byte(args[1]))
	case "get":
		v, err := stub.GetState(args[0])
		return string(v), err
	case "getMany":
		vs, err := stub.GetStates(args...)
		out := make([]string, len(vs))
		for i, v := range vs {
			out[i] = string(v)
		}
		return out, err
	case "del":
		return "ok", stub.DelState(args[0])
	case "fill": // n keys, batched
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return nil, err
		}
		stub.BatchWrites()
		for i := range n {
			if err := stub.PutState(fmt.Sprintf("key%04d", i), []byte(strconv.Itoa(i))); err != nil {
				return nil, err
			}
		}
		return n, nil
	case "scan": // start, end, how many rows to read before leaving
		stop, err := strconv.Atoi(args[2])
		if err != nil {
			return nil, err
		}
		var out []row
		for kv, err := range stub.GetStateByRange(args[0], args[1]) {
			if err != nil {
				return nil, err
			}
			if out = append(out, row{kv.Key, string(kv.Value)}); len(out) == stop {
				break
			}
		}
		return out, nil
	case "page":
		size, err := strconv.Atoi(args[2])
		if err != nil {
			return nil, err
		}
		kvs, page, err := stub.GetStateByRangeWithPagination(args[0], args[1], int32(size), args[3])
		if err != nil {
			return nil, err
		}
		out := map[string]any{"bookmark": page.Bookmark, "count": page.Count, "rows": len(kvs)}
		if len(kvs) > 0 {
			out["first"] = kvs[0].Key
		}
		return out, nil
	case "query", "queryPage":
		return everything{}.query(stub, f, args)
	case "index": // type, attributes…
		k, err := shim.CreateCompositeKey(args[0], args[1:]...)
		if err != nil {
			return nil, err
		}
		return "ok", stub.PutState(k, []byte{1})
	case "find":
		var out [][]string
		for kv, err := range stub.GetStateByPartialCompositeKey(args[0], args[1:]...) {
			if err != nil {
				return nil, err
			}
			_, attrs, err := shim.SplitCompositeKey(kv.Key)
			if err != nil {
				return nil, err
			}
			out = append(out, attrs)
		}
		return out, nil
	case "history":
		var out []string
		for m, err := range stub.GetHistoryForKey(args[0]) {
			if err != nil {
				return nil, err
			}
			out = append(out, fmt.Sprintf("%s %v", m.Value, m.IsDelete))
		}
		return out, nil
	case "event":
		return "ok", stub.SetEvent(args[0], []byte(args[1]))
	case "policy":
		return "ok", stub.SetStateValidationParameter(args[0], []byte(args[1]))
	case "getPolicy":
		v, err := stub.GetStateValidationParameter(args[0])
		return string(v), err
	case "who":
		id, err := stub.GetCreator()
		if err != nil {
			return nil, err
		}
		role, _ := id.Attribute("role")
		at, err := stub.GetTxTimestamp()
		return []string{id.MSPID, id.Certificate.Subject.CommonName, role, at.Format("2006"), stub.GetChannelID(), string(stub.GetTransient()["secret"])}, err
	case "call": // name, channel, arguments…
		var b [][]byte
		for _, a := range args[2:] {
			b = append(b, []byte(a))
		}
		return stub.InvokeChaincode(args[0], b, args[1]), nil
	case "status":
		return shim.Response{Status: 404, Message: "no such thing", Payload: []byte("p")}, nil
	case "panic":
		panic("on purpose")
	case "hang":
		<-stub.Context().Done()
		return "late", nil
	}
	return nil, fmt.Errorf("unknown function %q", f)
}

// result runs a call that must succeed and decodes its payload.
func result[T any](t *testing.T, out *chaincode.Outcome, err error) T {
	t.Helper()
	var v T
	if err != nil {
		t.Fatal(err)
	}
	if out.Response.Status != 200 {
		t.Fatalf("status %d: %s", out.Response.Status, out.Response.Message)
	}
	if err := json.Unmarshal(out.Response.Payload, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("want -, got +:\n%s", d)
	}
}

func TestStateAndQueries(t *testing.T) {
	p := chaincodetest.Start(t, everything{}, chaincode.Config{})
	do := func(f string, args ...string) string {
		t.Helper()
		out, err := p.Submit(f, args...)
		return result[string](t, out, err)
	}
	do("put", "a", "1")
	do("put", "a", "2")
	do("put", "b", "3")
	do("del", "b")
	same(t, do("get", "a"), "2")
	same(t, do("get", "b"), "")
	out, err := p.Evaluate("getMany", "b", "a", "none")
	same(t, result[[]string](t, out, err), []string{"", "2", ""})
	out, err = p.Evaluate("history", "b")
	same(t, result[[]string](t, out, err), []string{" true", "3 false"})
	do("policy", "a", "both")
	same(t, do("getPolicy", "a"), "both")
	same(t, do("getPolicy", "b"), "")

	out, err = p.Submit("fill", "2345") // three batches of at most 1000 writes
	same(t, result[int](t, out, err), 2345)
	for _, n := range []int{0, 1, 99, 100, 101, 1000, 2345} {
		out, err = p.Evaluate("scan", "key0000", fmt.Sprintf("key%04d", n), "-1")
		same(t, len(result[[]row](t, out, err)), n)
	}

	do("index", "owner~name", "ann", "car")
	do("index", "owner~name", "ann", "boat")
	do("index", "owner~name", "anna", "car")
	out, err = p.Evaluate("find", "owner~name", "ann")
	same(t, result[[][]string](t, out, err), [][]string{{"ann", "boat"}, {"ann", "car"}})

	// Simple and composite keys do not mix in ranges.
	out, err = p.Evaluate("scan", "", "b", "-1")
	same(t, result[[]row](t, out, err), []row{{"a", "2"}})
}

func TestPagination(t *testing.T) {
	p := chaincodetest.Start(t, everything{}, chaincode.Config{})
	if _, err := p.Submit("fill", "250"); err != nil {
		t.Fatal(err)
	}
	var got []string
	bookmark := ""
	for {
		out, err := p.Evaluate("page", "", "", "120", bookmark)
		page := result[struct {
			Bookmark, First string
			Count, Rows     int
		}](t, out, err)
		same(t, page.Rows, page.Count)
		got = append(got, fmt.Sprintf("%s+%d", page.First, page.Count))
		if bookmark = page.Bookmark; bookmark == "" {
			break
		}
	}
	same(t, got, []string{"key0000+120", "key0120+120", "key0240+10"})
	out, err := p.Evaluate("page", "", "", "-1", "")
	if err != nil || out.Response.Status != 500 {
		t.Errorf("a negative page size was accepted: %v %v", out, err)
	}
}

// Iterators that chaincode leaves open end with its transaction.
func TestIteratorsAreClosed(t *testing.T) {
	p := chaincodetest.Start(t, everything{}, chaincode.Config{})
	if _, err := p.Submit("fill", "500"); err != nil {
		t.Fatal(err)
	}
	for _, stop := range []string{"3", "100", "101", "-1"} {
		inv := p.Invocation(nil, nil, "scan", "", "", stop)
		state := p.Store.Simulate(inv.TxID)
		inv.State = state
		if out, err := p.Host.Execute(t.Context(), inv); err != nil || out.Response.Status != 200 {
			t.Fatal(out, err)
		}
		same(t, state.OpenIterators(), 0)
	}
}

func TestEventInitIdentityStatus(t *testing.T) {
	p := chaincodetest.Start(t, everything{}, chaincode.Config{})
	inv := p.Invocation(p.Store.Simulate(""), map[string][]byte{"secret": []byte("s")}, "event", "Created", "payload")
	out, err := p.Host.Execute(t.Context(), inv)
	if err != nil {
		t.Fatal(err)
	}
	same(t, out.Event.EventName+" "+out.Event.ChaincodeId+" "+out.Event.TxId+" "+string(out.Event.Payload), "Created basic "+inv.TxID+" payload")

	inv = p.Invocation(p.Store.Simulate(""), map[string][]byte{"secret": []byte("s")}, "who")
	out, err = p.Host.Execute(t.Context(), inv)
	same(t, result[[]string](t, out, err), []string{"Org1MSP", "user1", "broker", "2026", "main", "s"})

	out, err = p.Evaluate("status")
	if err != nil {
		t.Fatal(err)
	}
	same(t, fmt.Sprintf("%d %s %s", out.Response.Status, out.Response.Message, out.Response.Payload), "404 no such thing p")
	if out.Event != nil {
		t.Error("an event that nobody set")
	}

	out, err = p.Evaluate("panic")
	if err != nil || out.Response.Status != 500 || strings.Contains(out.Response.Message, "on purpose") {
		t.Errorf("panic: %v, %v", out, err)
	}

	state := p.Store.Simulate("")
	inv = p.Invocation(state, nil, "init", "good")
	inv.IsInit = true
	if out, err = p.Host.Execute(t.Context(), inv); err != nil || string(out.Response.Payload) != "init ran" || len(state.Writes("basic")) != 1 {
		t.Errorf("init: %v, %v", out, err)
	}
	inv = p.Invocation(p.Store.Simulate(""), nil, "init", "bad")
	inv.IsInit = true
	if _, err = p.Host.Execute(t.Context(), inv); !errors.Is(err, chaincode.ErrFailed) || !strings.Contains(err.Error(), "cannot initialise") {
		t.Errorf("failing init: %v", err)
	}
}

func TestConcurrentTransactions(t *testing.T) {
	p := chaincodetest.Start(t, everything{}, chaincode.Config{})
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			k := fmt.Sprint("k", i)
			if _, err := p.Submit("put", k, k); err != nil {
				t.Error(err)
			}
			out, err := p.Evaluate("get", k)
			if err != nil || string(out.Response.Payload) != strconv.Quote(k) {
				t.Errorf("%s: %v %v", k, out, err)
			}
		})
	}
	wg.Wait()
	for _, st := range p.Host.Status() {
		same(t, st.InFlight, 0)
	}
}

func TestCallsBetweenChaincodes(t *testing.T) {
	var resolved []string
	const other = "other_1:1111111111111111111111111111111111111111111111111111111111111111"
	p := chaincodetest.Start(t, everything{}, chaincode.Config{
		Resolve: func(_ context.Context, caller *chaincode.Invocation, name string, _ *peerpb.ChaincodeInput) (chaincode.Target, error) {
			resolved = append(resolved, caller.Namespace+">"+name)
			switch name {
			case "other":
				return chaincode.Target{PackageID: other}, nil
			case "basic":
				return chaincode.Target{PackageID: chaincodetest.PackageID}, nil
			case "qscc":
				return chaincode.Target{System: func(_ context.Context, inv chaincode.Invocation) (*peerpb.Response, error) {
					return &peerpb.Response{Status: 200, Payload: fmt.Appendf(nil, "%q", inv.Input.Args[0])}, nil
				}}, nil
			}
			return chaincode.Target{}, errors.New("access denied")
		},
	})
	p.Serve(everything{}, other)
	inv := p.Invocation(nil, nil, "call", "other", "", "put", "x", "1")
	state := p.Store.Simulate(inv.TxID)
	inv.State = state
	if out, err := p.Host.Execute(t.Context(), inv); err != nil || out.Response.Status != 200 {
		t.Fatal(out, err)
	}
	same(t, state.Writes("other"), map[string][]byte{"x": []byte("1")})
	same(t, len(state.Writes("basic")), 0)

	for _, c := range []struct{ name, channel, want string }{
		{"other:7.1", "main", ""}, // version and own channel have no meaning
		{"qscc", "", ""},
		{"nosuch", "", "access denied"},
		{"basic", "", "a chaincode cannot call itself"},
		{"other", "second", "calls across channels are not supported"},
		{"", "", "the name of the chaincode to call is empty"},
	} {
		out, err := p.Evaluate("call", c.name, c.channel, "get", "x")
		if err != nil {
			t.Fatal(err)
		}
		if (c.want == "") != (out.Response.Status == 200) || !strings.Contains(out.Response.Message, c.want) {
			t.Errorf("call %q on %q: status %d, %q", c.name, c.channel, out.Response.Status, out.Response.Message)
		}
	}
	// The event of a chaincode that was called is not the transaction's.
	out, err := p.Evaluate("call", "other", "", "event", "e", "p")
	if err != nil || out.Event != nil {
		t.Errorf("event of the callee: %v, %v", out.Event, err)
	}
	same(t, resolved[0], "basic>other")
}

func TestTimeoutAndDuplicate(t *testing.T) {
	p := chaincodetest.Start(t, everything{}, chaincode.Config{})
	inv := p.Invocation(p.Store.Simulate(""), nil, "hang")
	inv.Timeout = 50 * time.Millisecond
	_, err := p.Host.Execute(t.Context(), inv)
	if !errors.Is(err, chaincode.ErrTimeout) || !strings.Contains(err.Error(), `"basic"`) || !strings.Contains(err.Error(), "127.0.0.1:") {
		t.Fatalf("%v", err)
	}
	// The chaincode still runs it: the same id must not start again there.
	if _, err = p.Host.Execute(t.Context(), inv); !errors.Is(err, chaincode.ErrDuplicateTx) {
		t.Errorf("%v", err)
	}
	// Another channel is another transaction, and others go on.
	inv.ChannelID = "second"
	if _, err = p.Host.Execute(t.Context(), inv); !errors.Is(err, chaincode.ErrTimeout) {
		t.Errorf("%v", err)
	}
	if _, err = p.Evaluate("get", "a"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = p.Host.Execute(ctx, p.Invocation(p.Store.Simulate(""), nil, "hang")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestExecuteRefusesBadInvocations(t *testing.T) {
	p := chaincodetest.NewPeer(t, chaincode.Config{})
	good := p.Invocation(p.Store.Simulate(""), nil, "get", "a")
	for _, c := range []struct {
		name string
		edit func(*chaincode.Invocation)
		want string
	}{
		{"tx id", func(i *chaincode.Invocation) { i.TxID = "" }, "transaction id is empty"},
		{"name", func(i *chaincode.Invocation) { i.Namespace = "" }, "chaincode name is empty"},
		{"state", func(i *chaincode.Invocation) { i.State = nil }, "no state"},
		{"package", func(i *chaincode.Invocation) { i.PackageID = "x:y" }, "install its package"},
	} {
		inv := good
		c.edit(&inv)
		if _, err := p.Host.Execute(t.Context(), inv); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := p.Host.AddService("a:b", chaincode.Connection{Address: "127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	inv := good
	inv.PackageID = "a:b"
	if _, err := p.Host.Execute(t.Context(), inv); !errors.Is(err, chaincode.ErrUnavailable) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("%v", err)
	}
	if err := p.Host.AddService("a:b", chaincode.Connection{}); err == nil || !strings.Contains(err.Error(), "address is missing") {
		t.Errorf("%v", err)
	}
}

func TestLimits(t *testing.T) {
	p := chaincodetest.Start(t, everything{}, chaincode.Config{MaxWriteBytes: 100, MaxQueryResults: 7, MaxMessageBytes: 1 << 20})
	out, err := p.Submit("put", "k", strings.Repeat("x", 100))
	if err != nil || !strings.Contains(out.Response.Message, "writes more than 100 bytes") {
		t.Errorf("%v %v", out, err)
	}
	seed := p.Store.Simulate("seed")
	for i := range 20 {
		if err := seed.Put("basic", fmt.Sprint("k", i), []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	if err := seed.Put("basic", "big", make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	seed.Commit(chaincodetest.Time)
	out, err = p.Evaluate("scan", "k", "", "-1")
	same(t, len(result[[]row](t, out, err)), 7)
	out, err = p.Evaluate("get", "big")
	if err != nil || !strings.Contains(out.Response.Message, "does not fit into a message") {
		t.Errorf("%v %v", out, err)
	}
	if _, err = p.Submit("put", "k", strings.Repeat("x", 1<<20)); err == nil || !strings.Contains(err.Error(), "send less") {
		t.Errorf("%v", err)
	}
}
