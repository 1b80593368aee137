package shim

import (
	"fmt"
	"iter"
	"strings"
	"unicode/utf8"

	"strongroom/wire/peerpb"
	"strongroom/wire/queryresultpb"

	"google.golang.org/protobuf/proto"
)

// Composite keys begin with U+0000 and so stand apart from simple keys, which
// must not; their parts are closed by U+0000 (Fabric's layout).
const (
	compositeStart = "\x00"
	maxRune        = string(utf8.MaxRune)
	firstSimpleKey = "\x01" // where the simple keys begin
)

// Page is what a query with pagination says of its page. Bookmark starts the
// next page. Of a range it is "" after the last; of a rich query it never is, and
// a page of fewer rows than asked for is the last.
type Page struct {
	Count    int32
	Bookmark string
}

// GetStateByRange reads the simple keys of [start, end) in byte order; empty
// bounds are open. Rows come in batches as the loop goes on; leaving the loop ends
// the query. An error is the last element. Validation checks again that the
// committed range still reads the same (no phantoms).
func (s *Stub) GetStateByRange(start, end string) iter.Seq2[*queryresultpb.KV, error] {
	if err := simpleKeys(start, end); err != nil {
		return failed[*queryresultpb.KV](err)
	}
	if start == "" {
		start = firstSimpleKey
	}
	return s.rangeRows(start, end)
}

// GetStateByRangeWithPagination reads one page of a range: at most pageSize rows
// from bookmark on, or from start when bookmark is "". Peers refuse transactions
// that write after it; use it in queries.
func (s *Stub) GetStateByRangeWithPagination(start, end string, pageSize int32, bookmark string) ([]*queryresultpb.KV, Page, error) {
	if err := simpleKeys(start, end); err != nil {
		return nil, Page{}, err
	}
	if start == "" {
		start = firstSimpleKey
	}
	return s.page(start, end, pageSize, bookmark)
}

// GetStateByPartialCompositeKey reads the composite keys that begin with the
// object type and the attributes given.
func (s *Stub) GetStateByPartialCompositeKey(objectType string, attributes ...string) iter.Seq2[*queryresultpb.KV, error] {
	prefix, err := CreateCompositeKey(objectType, attributes...)
	if err != nil {
		return failed[*queryresultpb.KV](err)
	}
	return s.rangeRows(prefix, prefix+maxRune)
}

// GetStateByPartialCompositeKeyWithPagination is the same for one page.
func (s *Stub) GetStateByPartialCompositeKeyWithPagination(objectType string, attributes []string, pageSize int32, bookmark string) ([]*queryresultpb.KV, Page, error) {
	prefix, err := CreateCompositeKey(objectType, attributes...)
	if err != nil {
		return nil, Page{}, err
	}
	return s.page(prefix, prefix+maxRune, pageSize, bookmark)
}

// GetHistoryForKey reads the committed changes of a key, the newest first.
func (s *Stub) GetHistoryForKey(key string) iter.Seq2[*queryresultpb.KeyModification, error] {
	return queryRows[queryresultpb.KeyModification](s, peerpb.ChaincodeMessage_GET_HISTORY_FOR_KEY, &peerpb.GetHistoryForKey{Key: key})
}

func (s *Stub) rangeRows(start, end string) iter.Seq2[*queryresultpb.KV, error] {
	return queryRows[queryresultpb.KV](s, peerpb.ChaincodeMessage_GET_STATE_BY_RANGE, &peerpb.GetStateByRange{StartKey: start, EndKey: end})
}

func (s *Stub) page(start, end string, pageSize int32, bookmark string) ([]*queryresultpb.KV, Page, error) {
	if pageSize <= 0 {
		return nil, Page{}, fmt.Errorf("page size %d is not positive", pageSize)
	}
	return s.pageOf(pageSize, bookmark, func(md []byte) (*peerpb.QueryResponse, error) {
		return s.query(peerpb.ChaincodeMessage_GET_STATE_BY_RANGE, &peerpb.GetStateByRange{StartKey: start, EndKey: end, Metadata: md})
	})
}

// pageOf asks for one page with the metadata that says which.
func (s *Stub) pageOf(pageSize int32, bookmark string, ask func(metadata []byte) (*peerpb.QueryResponse, error)) ([]*queryresultpb.KV, Page, error) {
	md, err := proto.Marshal(&peerpb.QueryMetadata{PageSize: pageSize, Bookmark: bookmark})
	if err != nil {
		return nil, Page{}, fmt.Errorf("bookmark: %w", err)
	}
	resp, err := ask(md)
	if err != nil {
		return nil, Page{}, err
	}
	rows := make([]*queryresultpb.KV, len(resp.Results))
	for i, r := range resp.Results {
		rows[i] = new(queryresultpb.KV)
		if err := proto.Unmarshal(r.ResultBytes, rows[i]); err != nil {
			return nil, Page{}, fmt.Errorf("row %d: %w", i, err)
		}
	}
	var pageMD peerpb.QueryResponseMetadata
	if err := proto.Unmarshal(resp.Metadata, &pageMD); err != nil {
		return nil, Page{}, fmt.Errorf("page: %w", err)
	}
	return rows, Page{Count: pageMD.FetchedRecordsCount, Bookmark: pageMD.Bookmark}, nil
}

func (s *Stub) query(kind peerpb.ChaincodeMessage_Type, request proto.Message) (*peerpb.QueryResponse, error) {
	b, err := s.ask(kind, request)
	if err != nil {
		return nil, err
	}
	resp := new(peerpb.QueryResponse)
	if err := proto.Unmarshal(b, resp); err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return resp, nil
}

// queryRows runs a query when the loop starts and fetches batches as it goes on.
func queryRows[T any, P interface {
	*T
	proto.Message
}](s *Stub, kind peerpb.ChaincodeMessage_Type, request proto.Message) iter.Seq2[P, error] {
	return func(yield func(P, error) bool) {
		resp, err := s.query(kind, request)
		for {
			if err != nil {
				yield(nil, err)
				return
			}
			for _, r := range resp.Results {
				row := P(new(T))
				err := proto.Unmarshal(r.ResultBytes, row)
				if err != nil {
					row, err = nil, fmt.Errorf("%s: row: %w", kind, err)
				}
				if !yield(row, err) || err != nil {
					if resp.HasMore { // the peer has closed it otherwise; an error means the transaction is over
						_, _ = s.query(peerpb.ChaincodeMessage_QUERY_STATE_CLOSE, &peerpb.QueryStateClose{Id: resp.Id})
					}
					return
				}
			}
			if !resp.HasMore {
				return
			}
			resp, err = s.query(peerpb.ChaincodeMessage_QUERY_STATE_NEXT, &peerpb.QueryStateNext{Id: resp.Id})
		}
	}
}

func failed[P any](err error) iter.Seq2[P, error] {
	return func(yield func(P, error) bool) {
		var none P
		yield(none, err)
	}
}

func simpleKeys(keys ...string) error {
	for _, k := range keys {
		if strings.HasPrefix(k, compositeStart) {
			return fmt.Errorf("key %q begins with U+0000, as composite keys do; use GetStateByPartialCompositeKey", k)
		}
	}
	return nil
}

// CreateCompositeKey joins an object type and attributes to one key, so that keys
// can be found by their first attributes.
func CreateCompositeKey(objectType string, attributes ...string) (string, error) {
	var b strings.Builder
	b.WriteString(compositeStart)
	for i, part := range append([]string{objectType}, attributes...) {
		if !utf8.ValidString(part) {
			return "", fmt.Errorf("composite key: part %d is not valid UTF-8: %q", i, part)
		}
		if strings.ContainsAny(part, compositeStart+maxRune) {
			return "", fmt.Errorf("composite key: part %d has U+0000 or U+10FFFF, which are reserved: %q", i, part)
		}
		b.WriteString(part)
		b.WriteString("\x00")
	}
	return b.String(), nil
}

// SplitCompositeKey is the reverse of CreateCompositeKey.
func SplitCompositeKey(key string) (objectType string, attributes []string, err error) {
	body, ok := strings.CutPrefix(key, compositeStart)
	if !ok || !strings.HasSuffix(body, "\x00") {
		return "", nil, fmt.Errorf("%q is not a composite key", key)
	}
	parts := strings.Split(strings.TrimSuffix(body, "\x00"), "\x00")
	return parts[0], parts[1:], nil
}
