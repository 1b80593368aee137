package endorser

import (
	"context"

	"strongroom/channel/configtx"
	"strongroom/ledger"
	"strongroom/msp"
	"strongroom/wire"
	"strongroom/wire/peerpb"
)

// SystemVersion is the version of every system chaincode, as it stands in the
// chaincode action (Fabric's scc.SysCCVersion).
const SystemVersion = "syscc"

// SystemChaincode is a chaincode of the peer itself: _lifecycle, qscc, cscc. It is
// safe for concurrent use and checks the access to each of its functions itself.
type SystemChaincode interface {
	// Name is its name and namespace.
	Name() string
	// Invoke answers a call. An error text for the caller goes into the response
	// (Failure); a refusal of access is a *rpcerr.Refusal; every other error is a
	// failure of ours.
	Invoke(ctx context.Context, call *Call) (*peerpb.Response, error)
}

// Simulated is a SystemChaincode that reads and writes the channel's state. The
// others are called without a Simulator, as in Fabric.
type Simulated interface {
	SystemChaincode
	Simulated()
}

// Call is one call of a system chaincode. Nothing may change its slices.
type Call struct {
	ChannelID string // "" for a call without channel
	TxID      string
	Args      [][]byte         // with the function's name first
	Proposal  *wire.Proposal   // the proposal that the client signed
	Creator   *msp.Identity    // its creator, whose signature verified
	Config    *configtx.Config // the channel's configuration in force; nil without channel
	// Simulator is the proposal's own; nil without channel and for a chaincode that
	// is not Simulated.
	Simulator   *ledger.Simulator
	RemoteAddr  string
	TLSCertHash []byte // SHA-256 of the client's TLS certificate, nil without one
	// Nested says that a chaincode made the call, not the client.
	Nested bool
}

// Function is the first argument, "" without one.
func (c *Call) Function() string {
	if len(c.Args) == 0 {
		return ""
	}
	return string(c.Args[0])
}

// Parameters are the arguments after the function.
func (c *Call) Parameters() [][]byte {
	if len(c.Args) < 2 {
		return nil
	}
	return c.Args[1:]
}
