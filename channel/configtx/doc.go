// Package configtx is the configuration of a channel: it reads the configuration
// of any channel that Fabric's tools make, validates and applies updates with
// Fabric's rules, checks the signatures of blocks, and builds genesis blocks. It
// performs no I/O, but for Description.Resolve, which reads certificate files.
//
// A Config is immutable. What a configuration may and may not hold follows
// Fabric's common/channelconfig, and the rules of updates follow common/configtx,
// so that every peer of a channel comes to the same configuration; where Strongroom
// does not support what Fabric does, the configuration is refused and the error
// names the path in it.
package configtx
