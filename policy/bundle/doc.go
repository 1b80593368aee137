// Package bundle reads, verifies and makes policy bundles: Open Policy Agent's
// archives of Rego and data with a signature. A bundle that `opa build` or `opa sign`
// signed with ES256 is read here, and one that is made here is verified by OPA.
//
// The signature is checked in the token, never by OPA's own verifier, whose choice of
// plugin the bundle itself could make. The order: the archive is unpacked within
// bounds, its signature verified, every file's hash compared, and only then is any
// file read. What cannot be signed (delta bundles) or decided on alike everywhere
// (WebAssembly, other versions of Rego) is refused.
//
// It performs no I/O besides the folder that ReadFolder reads.
package bundle
