package shim

import (
	"fmt"
	"iter"

	"strongroom/wire/peerpb"
	"strongroom/wire/queryresultpb"
)

// GetQueryResult reads the rows whose values match a rich query: JSON with a
// selector in CouchDB's syntax. Rows come in batches as the loop goes on; leaving
// the loop ends the query. An error is the last element. Validation checks the rows
// that were read, but not that there are no others (phantoms): decide on a range or
// a key what must not change under the transaction.
func (s *Stub) GetQueryResult(query string) iter.Seq2[*queryresultpb.KV, error] {
	return queryRows[queryresultpb.KV](s, peerpb.ChaincodeMessage_GET_QUERY_RESULT, &peerpb.GetQueryResult{Query: query})
}

// GetQueryResultWithPagination reads one page of a rich query: at most pageSize
// rows from bookmark on, or from the start when it is "". Peers refuse transactions
// that write after it; use it in queries.
func (s *Stub) GetQueryResultWithPagination(query string, pageSize int32, bookmark string) ([]*queryresultpb.KV, Page, error) {
	if pageSize <= 0 {
		return nil, Page{}, fmt.Errorf("page size %d is not positive", pageSize)
	}
	return s.pageOf(pageSize, bookmark, func(md []byte) (*peerpb.QueryResponse, error) {
		return s.query(peerpb.ChaincodeMessage_GET_QUERY_RESULT, &peerpb.GetQueryResult{Query: query, Metadata: md})
	})
}
