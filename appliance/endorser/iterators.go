package endorser

import (
	"strongroom/ledger/rwset"
	"strongroom/wire/queryresultpb"
)

// pageIterator is the ledger's page as the chaincode host reads it.
type pageIterator struct{ page rwset.PageIterator }

func (p pageIterator) Next() (*queryresultpb.KV, error) { return p.page.Next() }
func (p pageIterator) Bookmark() (string, error)        { return p.page.Bookmark(), nil }
func (p pageIterator) Close()                           { p.page.Close() }
