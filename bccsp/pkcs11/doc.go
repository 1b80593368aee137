// Package pkcs11 is the driver for tokens that speak PKCS #11 version 2.40: the
// one place of the peer where cgo is used and where a private key is asked to sign
// or a signature is checked.
//
// # Sessions and concurrency
//
// A [Token] owns one anchor session and a pool of sessions. Each session belongs to
// one goroutine of its own, and an operation (C_VerifyInit and C_Verify, say) runs
// as a whole on one of them, so that no two operations ever meet on a session. The
// caller waits for the answer, for its context or for Config.CallTimeout. No PKCS #11
// call can be interrupted: when one does not come back in time its session is
// abandoned and replaced, and is closed, never used again, should it ever return.
//
// The anchor session keeps the login alive and owns the foreign public keys, which
// are session objects: they die with the session that made them and can be used from
// all others.
//
// # Recovery
//
// What a device loses is made anew while the process runs: sessions, handles, the login,
// and the module by C_Finalize and C_Initialize; see Class and recovery.go. Callers wait
// for it within their contexts. Calls are counted in and out of the module, which is
// never finalized under one. A [Group] goes on with another token meanwhile.
//
// # Verdicts and failures
//
// Only CKR_SIGNATURE_INVALID, CKR_SIGNATURE_LEN_RANGE and our own checks before the
// call give an error that wraps bccsp.ErrBadSignature. Everything else is an [*Error],
// [ErrTimeout], [ErrClosed], [ErrStopped] or the context's error: the token could not answer.
package pkcs11
