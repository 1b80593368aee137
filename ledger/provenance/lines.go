package provenance

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Line is one kept statement as it stands on the disk.
type Line struct {
	File   string
	Number uint64 // of the block that it should be about
	Bundle []byte // without the end of the line
	// Torn is set for the end of the last file if it is no whole line: what a crash left.
	Torn bool
}

// Lines gives the lines in a folder of statements, in the order of their blocks, and
// changes nothing. It says nothing about what is in them. A folder that is not there
// has none.
func Lines(dir string) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			yield(Line{}, err)
			return
		}
		var firsts []uint64
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), fileSuffix) {
				continue
			}
			var first uint64
			if _, err := fmt.Sscanf(e.Name(), "%020d", &first); err != nil || fileName(first) != e.Name() {
				yield(Line{}, fmt.Errorf("%s is no statement file's name: remove it", filepath.Join(dir, e.Name())))
				return
			}
			firsts = append(firsts, first)
		}
		slices.Sort(firsts)
		for i, first := range firsts {
			file := filepath.Join(dir, fileName(first))
			data, err := os.ReadFile(file)
			if err != nil {
				yield(Line{}, err)
				return
			}
			for number := first; len(data) > 0; number++ {
				text, rest, ended := bytes.Cut(data, []byte{'\n'})
				torn := !ended && i == len(firsts)-1
				if !yield(Line{File: file, Number: number, Bundle: text, Torn: torn}, nil) {
					return
				}
				data = rest
			}
		}
	}
}
