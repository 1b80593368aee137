package configtx

import (
	"fmt"
	"slices"

	"strongroom/wire/commonpb"
)

// Level is a set of behaviours that a capability of a channel turns on. Levels are
// ordered: a later one has all that an earlier one has.
type Level uint8

// The levels that Strongroom knows. What a capability of version 1 turns on is
// part of LevelV2_0.
const (
	LevelNone Level = iota // below 2.0
	LevelV2_0
	LevelV2_5
	LevelV3_0
)

// String is the capability's name.
func (l Level) String() string {
	switch l {
	case LevelV2_0:
		return "V2_0"
	case LevelV2_5:
		return "V2_5"
	case LevelV3_0:
		return "V3_0"
	}
	return "none"
}

// Capabilities are the levels of a channel's three capability values.
type Capabilities struct {
	Channel, Orderer, Application Level
	// Rego says that chaincode definitions may carry validation rules in Rego (application
	// capability RegoCapability). A Fabric peer does not join such a channel.
	Rego bool
}

// RegoCapability is Strongroom's own application capability.
const RegoCapability = "STRONGROOM_REGO_1"

// BFT tells whether orderers may name themselves in block signatures by their
// number in the Orderers value (channel capability V3_0).
func (c Capabilities) BFT() bool { return c.Channel >= LevelV3_0 }

// PurgePrivateData tells whether chaincode may purge private data (application
// capability V2_5).
func (c Capabilities) PurgePrivateData() bool { return c.Application >= LevelV2_5 }

// Names of capabilities that Fabric 3.1 knows, for each of the three values, and
// RegoCapability. Those
// of version 1 turn on less than any channel that Strongroom serves needs, but may
// stand beside a later one.
var (
	channelCapabilities     = map[string]Level{"V1_1": LevelNone, "V1_3": LevelNone, "V1_4_2": LevelNone, "V1_4_3": LevelNone, "V2_0": LevelV2_0, "V3_0": LevelV3_0}
	ordererCapabilities     = map[string]Level{"V1_1": LevelNone, "V1_4_2": LevelNone, "V2_0": LevelV2_0}
	applicationCapabilities = map[string]Level{"V1_1": LevelNone, "V1_2": LevelNone, "V1_3": LevelNone, "V1_4_2": LevelNone, "V2_0": LevelV2_0, "V2_5": LevelV2_5, RegoCapability: LevelNone}
)

// level reads a Capabilities value. A name that is not known is refused: the
// channel demands a behaviour that this node does not have.
func level(path string, value *commonpb.Capabilities, known map[string]Level) (Level, error) {
	highest := LevelNone
	names := make([]string, 0, len(value.GetCapabilities()))
	for name := range value.GetCapabilities() {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		l, ok := known[name]
		if !ok {
			return 0, fmt.Errorf("%s: capability %q is not known to this node: upgrade it before it can join", path, name)
		}
		highest = max(highest, l)
	}
	return highest, nil
}
