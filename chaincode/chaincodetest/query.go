package chaincodetest

import (
	"context"
	"errors"
	"math"

	"strongroom/chaincode"
	"strongroom/ledger/selector"
	"strongroom/wire/queryresultpb"
)

// Query implements chaincode.State.
func (s *State) Query(ctx context.Context, namespace, query string) (chaincode.KVIterator, error) {
	return s.query(ctx, namespace, query, math.MaxInt32, "")
}

// QueryPage implements chaincode.State.
func (s *State) QueryPage(ctx context.Context, namespace, query string, pageSize int32, bookmark string) (chaincode.PageIterator, error) {
	if len(s.writes) > 0 {
		return nil, errors.New("the transaction has written; it may not read a page")
	}
	q, err := s.query(ctx, namespace, query, int(pageSize), bookmark)
	if err != nil {
		return nil, err
	}
	s.paged = true
	return q, nil
}

func (s *State) query(ctx context.Context, namespace, query string, limit int, bookmark string) (*matches, error) {
	q, err := selector.Parse([]byte(query))
	if err != nil {
		return nil, err
	}
	r, err := q.Run(ctx, source{s, namespace}, limit, bookmark)
	if err != nil {
		return nil, err
	}
	s.open++
	return &matches{Results: r, state: s, namespace: namespace}, nil
}

// matches walks the rows of a rich query.
type matches struct {
	*selector.Results
	state     *State
	namespace string
}

func (m *matches) Next() (*queryresultpb.KV, error) {
	k, v, ok, err := m.Results.Next()
	if err != nil || !ok {
		return nil, err
	}
	return &queryresultpb.KV{Namespace: m.namespace, Key: k, Value: v}, nil
}

func (m *matches) Close() {
	m.state.open--
	m.Results.Close()
}

// source is a namespace of the state as rich queries read it.
type source struct {
	state     *State
	namespace string
}

func (s source) Scan(from string) (selector.Rows, error) {
	return sourceRows{s.state.scan(s.namespace, from, "")}, nil
}

func (s source) Get(k string) ([]byte, error) { return s.state.values[key{s.namespace, k}], nil }

func (s source) Indexes() []*selector.Index { return nil }

func (s source) ScanIndex(int, []byte, []byte, bool) (selector.Keys, error) {
	return nil, errors.New("the state has no indexes")
}

type sourceRows struct{ *scan }

func (r sourceRows) Next() (string, []byte, bool, error) {
	kv, err := r.scan.Next()
	return kv.GetKey(), kv.GetValue(), kv != nil, err
}
