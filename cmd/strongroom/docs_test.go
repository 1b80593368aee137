package main

import (
	"testing"

	"strongroom/cmd/documented"
)

func TestDocumented(t *testing.T) {
	documented.Commands(t, root(), "../..")
	documented.Page(t, root(), "../../docs/commands/strongroom.md")
}
