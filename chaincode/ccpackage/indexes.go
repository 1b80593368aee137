package ccpackage

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"strongroom/ledger/selector"
)

// IndexFolder is where the index definitions of a chaincode are in its code archive, as
// Fabric's ccaas builder expects them.
const IndexFolder = "META-INF/statedb/couchdb/indexes"

// Indexes are the package's index definitions for rich queries, by the order of
// their files' names. Ignored are the other files below META-INF, with the reason:
// those of collections among them. An error names the file that is no definition.
func (p *Package) Indexes() (list []*selector.Index, ignored []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(p.MetaInf)) {
		folder := path.Dir(name)
		switch {
		case folder == IndexFolder && strings.HasSuffix(name, ".json"):
			x, err := selector.ParseIndex(p.MetaInf[name])
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", name, err)
			}
			list = append(list, x)
		case strings.HasPrefix(folder, "META-INF/statedb/couchdb/collections/"):
			ignored = append(ignored, name+": private data is not indexed")
		default:
			ignored = append(ignored, name+": index definitions are "+IndexFolder+"/*.json")
		}
	}
	return list, ignored, nil
}

// WriteIndexed is Write for chaincode with index definitions, by the names of their
// files, as owner.json.
func WriteIndexed(label string, c Connection, indexes map[string][]byte) ([]byte, error) {
	var files []file
	for _, name := range slices.Sorted(maps.Keys(indexes)) {
		if path.Base(name) != name || !strings.HasSuffix(name, ".json") {
			return nil, fmt.Errorf("index file %q: its name must end in .json and have no folder", name)
		}
		if _, err := selector.ParseIndex(indexes[name]); err != nil {
			return nil, fmt.Errorf("index file %q: %w", name, err)
		}
		files = append(files, file{path.Join(IndexFolder, name), indexes[name]})
	}
	return write(label, c, files)
}

func write(label string, c Connection, more []file) ([]byte, error) {
	if err := CheckLabel(label); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	connection, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	meta, err := json.Marshal(metadata{Type: TypeService, Label: label})
	if err != nil {
		return nil, err
	}
	code, err := pack(append([]file{{"connection.json", connection}}, more...)...)
	if err != nil {
		return nil, err
	}
	return pack(file{"metadata.json", meta}, file{"code.tar.gz", code})
}
