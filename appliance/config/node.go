package config

// NodeFile is what the configurations of a peer and of an ordering node have in common,
// for commands that work on either.
type NodeFile struct {
	Node   Node
	Token  Token
	Data   string
	Policy Policy
	Audit  Audit
	Log    Log
	Peer   bool
}

// LoadNode reads and checks the configuration of a peer or of an ordering node. When it
// is neither, the error is that of a peer.
func LoadNode(path string) (*NodeFile, error) {
	p, err := LoadPeer(path)
	if err == nil {
		return &NodeFile{p.Node, p.Token, p.Data, p.Policy, p.Audit, p.Log, true}, nil
	}
	o, notOrderer := LoadOrderer(path)
	if notOrderer != nil {
		return nil, err
	}
	return &NodeFile{o.Node, o.Token, o.Data, o.Policy, o.Audit, o.Log, false}, nil
}
