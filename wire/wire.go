// Package wire reads Fabric's messages: it parses an Envelope, a SignedProposal
// or a Block once, strictly, into a form that the rest of the peer uses without
// decoding any bytes again. It performs no I/O.
//
// The messages themselves are defined in wire/proto, with Fabric's package,
// message and field names and numbers, and generated into the packages commonpb,
// msppb, peerpb, ordererpb, gatewaypb, lifecyclepb, discoverypb, gossippb, rwsetpb,
// kvrwsetpb and queryresultpb.
package wire

//go:generate go run ./protogen
