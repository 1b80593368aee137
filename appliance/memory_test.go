package appliance

import (
	"os"
	"runtime/debug"
	"testing"
)

func TestCollectEarly(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	t.Setenv("GOGC", "90")
	CollectEarly()
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("GOGC was set, yet the percentage became %d", got)
	}
	if err := os.Unsetenv("GOGC"); err != nil { // Setenv restores it in the end
		t.Fatal(err)
	}
	CollectEarly()
	if got := debug.SetGCPercent(100); got != heapGrowth {
		t.Errorf("the percentage is %d, want %d", got, heapGrowth)
	}
}
