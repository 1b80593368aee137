// Package peers knows the other peers of this peer's channels: those that the
// configuration names and the anchor peers of each channel's configuration. It asks
// each of them now and then for its height, as any client may: the answer is an
// endorsement, so it also proves who the peer is. Gossip is not needed for it, and
// nothing that a peer says of another is believed.
package peers
