// Package provenance makes, keeps and checks the signed statement of where a block
// came from: one in-toto Statement for each committed block, its subject the block
// header, its predicate how the block was judged here and by what. The statement is
// signed in the token as a DSSE envelope and kept as a Sigstore bundle, so that
// tools which know nothing of Strongroom verify it: cosign, in-toto, and openssl
// over the pre-authentication encoding.
//
// A statement names transactions by their place and their verdict. It holds nothing
// that a transaction read or wrote.
//
// Formats: in-toto Statement v1, DSSE v1 (signature in ASN.1 DER, no keyid: verifiers
// that know a keyid of their own skip signatures with another), Sigstore bundle v0.3.
// The predicate is described by schema.json.
package provenance
