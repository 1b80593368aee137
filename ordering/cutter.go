package ordering

// entry is one envelope of the pending log on its way into a block.
type entry struct {
	position uint64 // its number in the pending log
	kind     entryKind
	sequence uint64 // of the configuration under which it was checked
	raw      []byte // common.Envelope as it goes into the block
	size     uint32 // of payload and signature: what batch limits count
}

// limits are the orderer.BatchSize of a configuration.
type limits struct {
	maxMessages    uint32
	preferredBytes uint32
}

// cutter gathers entries into batches by Fabric's rules. It is used by one goroutine.
type cutter struct {
	pending []entry
	bytes   uint32
}

// add takes the next entry and returns the batches that are full, none, one or two.
//
// An entry larger than the preferred size gets a batch of its own, after the one
// that was gathering. An entry that would carry the gathering batch over the
// preferred size closes it first. A batch with the full count is closed at once.
func (c *cutter) add(e entry, l limits) [][]entry {
	var full [][]entry
	if e.size > l.preferredBytes {
		if batch := c.cut(); len(batch) > 0 {
			full = append(full, batch)
		}
		return append(full, []entry{e})
	}
	if uint64(c.bytes)+uint64(e.size) > uint64(l.preferredBytes) {
		full = append(full, c.cut())
	}
	c.pending = append(c.pending, e)
	c.bytes += e.size
	if uint32(len(c.pending)) >= l.maxMessages {
		full = append(full, c.cut())
	}
	return full
}

// cut returns what has gathered and starts anew.
func (c *cutter) cut() []entry {
	batch := c.pending
	c.pending, c.bytes = nil, 0
	return batch
}
