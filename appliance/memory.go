package appliance

import (
	"os"
	"runtime/debug"
)

// heapGrowth is by how much of what is live the heap may grow before Go collects, in
// percent: Go's own 100 spends memory on a collection that costs a peer little. A
// replay of 36,830 transactions peaks at 238 MB with it instead of 266, at the same
// rate (docs/performance-load.md).
const heapGrowth = 70

// CollectEarly has this process collect garbage earlier than Go does by itself, unless
// the environment variable GOGC says how early.
func CollectEarly() {
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(heapGrowth)
	}
}
