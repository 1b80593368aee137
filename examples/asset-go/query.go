package main

import (
	"fmt"
	"strconv"

	"strongroom/chaincode/shim"
	"strongroom/wire/queryresultpb"
)

// queryAssets runs a rich query in CouchDB's selector syntax. The query must give
// whole assets: without fields, or with all of them.
func queryAssets(stub *shim.Stub, args []string) (any, error) {
	assets := []Asset{}
	for kv, err := range stub.GetQueryResult(args[0]) {
		if err != nil {
			return nil, err
		}
		a, err := decode(kv)
		if err != nil {
			return nil, err
		}
		assets = append(assets, *a)
	}
	return assets, nil
}

func queryAssetsPage(stub *shim.Stub, args []string) (any, error) {
	size, err := pageSize(args[1])
	if err != nil {
		return nil, err
	}
	rows, page, err := stub.GetQueryResultWithPagination(args[0], size, args[2])
	if err != nil {
		return nil, err
	}
	return newPage(rows, page)
}

func pageSize(text string) (int32, error) {
	size, err := strconv.ParseInt(text, 10, 32)
	if err != nil || size < 1 || size > 1000 {
		return 0, fmt.Errorf("pageSize %q is not a number from 1 to 1000", text)
	}
	return int32(size), nil
}

func newPage(rows []*queryresultpb.KV, page shim.Page) (any, error) {
	out := AssetPage{Assets: []Asset{}, Bookmark: page.Bookmark, Count: page.Count}
	for _, kv := range rows {
		a, err := decode(kv)
		if err != nil {
			return nil, err
		}
		out.Assets = append(out.Assets, *a)
	}
	return out, nil
}
