package configtx

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// RaftDescription is the metadata of the consensus type "etcdraft".
type RaftDescription struct {
	Consenters []RaftConsenter `yaml:"consenters"`

	TickInterval         Duration `yaml:"tickInterval"`         // default 500ms
	ElectionTick         uint32   `yaml:"electionTick"`         // ticks; default 10
	HeartbeatTick        uint32   `yaml:"heartbeatTick"`        // ticks; default 1
	MaxInflightBlocks    uint32   `yaml:"maxInflightBlocks"`    // default 5
	SnapshotIntervalSize Size     `yaml:"snapshotIntervalSize"` // bytes; default 16 MB
}

// RaftConsenter is one node of a Raft cluster.
type RaftConsenter struct {
	Host string `yaml:"host"`
	Port uint32 `yaml:"port"`
	// The certificates in PEM, or the files that Resolve reads them from.
	ClientTLSCert     []byte `yaml:"-"`
	ServerTLSCert     []byte `yaml:"-"`
	ClientTLSCertFile string `yaml:"clientTLSCert"`
	ServerTLSCertFile string `yaml:"serverTLSCert"`
}

func (r RaftDescription) withDefaults() RaftDescription {
	setDefault(&r.TickInterval, Duration(500*time.Millisecond))
	setDefault(&r.ElectionTick, 10)
	setDefault(&r.HeartbeatTick, 1)
	setDefault(&r.MaxInflightBlocks, 5)
	setDefault(&r.SnapshotIntervalSize, 16<<20)
	return r
}

func setDefault[T comparable](field *T, value T) {
	if *field == *new(T) {
		*field = value
	}
}

// metadata is the etcdraft.ConfigMetadata message: consenters (field 1: host 1,
// port 2, client_tls_cert 3, server_tls_cert 4) and options (field 2: tick_interval
// 1, election_tick 2, heartbeat_tick 3, max_inflight_blocks 4,
// snapshot_interval_size 5).
func (r RaftDescription) metadata() ([]byte, error) {
	r = r.withDefaults()
	if len(r.Consenters) == 0 {
		return nil, errors.New("raft.consenters is empty: name at least one node")
	}
	if r.TickInterval <= 0 || r.ElectionTick <= r.HeartbeatTick {
		return nil, errors.New("raft: tickInterval must be positive and electionTick greater than heartbeatTick")
	}
	var b []byte
	for i, c := range r.Consenters {
		switch {
		case c.Host == "" || c.Port == 0 || c.Port > 65535:
			return nil, fmt.Errorf("raft.consenters[%d]: host is empty or port is not one of 1 to 65535", i)
		case len(c.ClientTLSCert) == 0:
			return nil, fmt.Errorf("raft.consenters[%d].clientTLSCert is missing, or Resolve was not called", i)
		case len(c.ServerTLSCert) == 0:
			return nil, fmt.Errorf("raft.consenters[%d].serverTLSCert is missing, or Resolve was not called", i)
		}
		var m []byte
		m = appendBytes(m, 1, []byte(c.Host))
		m = appendVarint(m, 2, c.Port)
		m = appendBytes(m, 3, c.ClientTLSCert)
		m = appendBytes(m, 4, c.ServerTLSCert)
		b = appendBytes(b, 1, m)
	}
	var o []byte
	o = appendBytes(o, 1, []byte(time.Duration(r.TickInterval).String()))
	o = appendVarint(o, 2, r.ElectionTick)
	o = appendVarint(o, 3, r.HeartbeatTick)
	o = appendVarint(o, 4, r.MaxInflightBlocks)
	o = appendVarint(o, 5, uint32(r.SnapshotIntervalSize))
	return appendBytes(b, 2, o), nil
}

func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

func appendVarint(b []byte, num protowire.Number, v uint32) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(v))
}
