// Package examples holds the example rules of this folder, as the command line hands
// them out: access layers and an endorsement guard, with their tests.
package examples

import "embed"

// Files are the rules and their tests.
//
//go:embed *.rego endorse/*.rego
var Files embed.FS
