package fabricprotos

import (
	"os"
	"strings"
	"testing"
)

// TestEveryMethodIsTold: docs/compatibility.md has a word on every method of every
// service that Fabric's own package defines.
func TestEveryMethodIsTold(t *testing.T) {
	text, err := os.ReadFile("../../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	for service, methods := range readSchema(t).Services {
		for method := range methods {
			if name := "`" + service + "/" + method + "`"; !strings.Contains(string(text), name) {
				t.Errorf("docs/compatibility.md does not tell of %s", name)
			}
		}
	}
}
