// Package evidence is the form in which a range of a channel's blocks leaves a peer
// for an auditor: an evidence pack, one archive (tar, compressed with zstd or gzip) or
// the folder that results from unpacking it.
//
//	pack.json                       what the pack holds
//	VERIFY.md                       how to check it with openssl, jq and sha256sum
//	signer.pem                      certificate of the key that signed checkpoint and pack; then of keys that signed statements before it
//	checkpoint                      the transparency log at the time of export, signed
//	config.block                    the configuration block in force at the first block
//	msp/<MSP id>/...                its organisations' CA certificates and CRLs, as in config.block
//	headers/<N>.der                 for each block N, 20 digits: its ASN.1 header, whose SHA-256 is the block hash,
//	blocks/<N>.block                the block as the peer keeps it,
//	statements/<N>.sigstore.json    the statement that the HSM signed about it,
//	proofs/<N>.tlog-proof           and the proof that the statement is in the log
//	SHA256SUMS                      of all files above, in the form of sha256sum
//	SHA256SUMS.sigstore.json        signed statement about SHA256SUMS
//
// The files stand in this order, so that an archive is checked in one pass.
package evidence
