package selector

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// A bookmark is, in base64url without padding, a form byte, the first 8 bytes of
// the SHA-256 of the query's selector and sort, the first 8 of the SHA-256 of what
// stands before and behind them, and the place: a JSON list of the key and the
// values of the sort fields. It needs no memory in the peer and means the same to
// each. The hashes find damage and mix-ups; they are no secret, and whoever forges
// a bookmark gets another place in results that were his to read.
const (
	bookmarkForm    = 1
	bookmarkHeader  = 1 + 8 + 8
	maxBookmarkSize = 1 << 20
	noBookmark      = "nil" // CouchDB's word for none
)

func (q *Query) bookmark(p *place) string {
	body, err := json.Marshal(append([]any{p.key}, p.values...))
	if err != nil {
		panic(err) // decoded JSON always encodes
	}
	b := append([]byte{bookmarkForm}, q.digest[:]...)
	sum := bookmarkSum(b, body)
	b = append(append(b, sum[:8]...), body...)
	return base64.RawURLEncoding.EncodeToString(b)
}

func bookmarkSum(head, body []byte) [sha256.Size]byte {
	return sha256.Sum256(append(bytes.Clone(head), body...))
}

var errBookmark = errors.New("rich query: the bookmark is damaged or not one of this peer's; pass on unchanged what the page before gave")

// parseBookmark returns the place of a bookmark, nil for "" and "nil".
func (q *Query) parseBookmark(s string) (*place, error) {
	if s == "" || s == noBookmark {
		return nil, nil
	}
	if len(s) > maxBookmarkSize {
		return nil, fmt.Errorf("rich query: the bookmark has %d bytes; at most %d are allowed", len(s), maxBookmarkSize)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < bookmarkHeader || b[0] != bookmarkForm {
		return nil, errBookmark
	}
	head, sum, body := b[:9], b[9:bookmarkHeader], b[bookmarkHeader:]
	if want := bookmarkSum(head, body); !bytes.Equal(sum, want[:8]) {
		return nil, errBookmark
	}
	if !bytes.Equal(head[1:], q.digest[:]) {
		return nil, errors.New("rich query: the bookmark belongs to a query with another selector or sort")
	}
	v, err := decode(body)
	if err != nil {
		return nil, errBookmark
	}
	list, ok := v.([]any)
	if !ok || len(list) != 1+len(q.sort) {
		return nil, errBookmark
	}
	key, ok := list[0].(string)
	if !ok {
		return nil, errBookmark
	}
	return &place{key: key, values: list[1:]}, nil
}
