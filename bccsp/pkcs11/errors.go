package pkcs11

import (
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp"
)

var (
	// ErrTimeout means that the token did not answer within Config.CallTimeout. The
	// session that was used is lost; the next operation gets a fresh one.
	ErrTimeout = errors.New("token did not answer in time")
	// ErrFalseAnswer means that the token failed a check of ours: it made a signature that
	// is not its key's, or refused a good one. A signature that fails is not given out.
	ErrFalseAnswer = errors.New("token gave a false answer: do not use this device")
	// ErrClosed means that the Token was closed.
	ErrClosed = errors.New("token is closed")
	// ErrKeyNotFound means that the token has no key with the label or the public half that was asked for.
	ErrKeyNotFound = errors.New("key not found in the token")
	// ErrKeyAmbiguous means that several keys of the token match.
	ErrKeyAmbiguous = errors.New("the token has several keys that match")
	// ErrKeyExists means that a key with this label is in the token already.
	ErrKeyExists = errors.New("key exists in the token")
	// ErrPINRefused means that the token refused the PIN, now or earlier in this
	// process. It is never tried again: tokens lock themselves after a few attempts.
	ErrPINRefused = errors.New("token refused the PIN")
)

// Class says what can help after an error of a token.
type Class uint8

const (
	// ClassOther: nothing known helps; asking again gives the same answer.
	ClassOther Class = iota
	// ClassBadSignature: an answer, not a failure: the signature is false.
	ClassBadSignature
	// ClassSession: the session is lost; a fresh one helps.
	ClassSession
	// ClassHandle: the object's handle is stale; finding or importing it again helps.
	ClassHandle
	// ClassLogin: the login is lost; logging in again helps.
	ClassLogin
	// ClassModule: the connection to the device is lost; C_Finalize and
	// C_Initialize help, then everything must be found again.
	ClassModule
	// ClassBusy: the device has no room or no time; trying later helps.
	ClassBusy
	// ClassStop: nobody may try again before an operator has looked: a wrong or
	// locked PIN, or a device that reports an internal failure.
	ClassStop
)

var classNames = [...]string{"other", "bad signature", "session lost", "handle stale", "login lost", "device lost", "busy", "stop"}

// String names the class.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// Retryable tells whether asking again can help, after what the class asks for.
func (c Class) Retryable() bool {
	switch c {
	case ClassSession, ClassHandle, ClassLogin, ClassModule, ClassBusy:
		return true
	}
	return false
}

// advice is what an operator does about an error of the class.
var advice = [...]string{
	ClassOther:        "retrying does not help",
	ClassBadSignature: "the signature is false",
	ClassSession:      "a fresh session can help",
	ClassHandle:       "finding the key again can help",
	ClassLogin:        "logging in again can help",
	ClassModule:       "the device is lost: check its connection, power and service",
	ClassBusy:         "trying later can help",
	ClassStop:         "no retry: check the token by hand",
}

// Error is an answer of a PKCS #11 module other than CKR_OK.
type Error struct {
	Op    string // the C function, as "C_Sign"
	Code  uint   // CK_RV
	Name  string // its name, as "CKR_DEVICE_ERROR", or "CKR_0x80000123" for one that has none
	Slot  uint   // the slot's number, which may differ from run to run
	Class Class  // what can help

	generation uint64 // of the module, when a session got the answer
}

// Error names the call, the code, the slot and what can help.
func (e *Error) Error() string {
	return fmt.Sprintf("%s on slot %d: %s (0x%X): %s", e.Op, e.Slot, e.Name, e.Code, advice[e.Class])
}

// Unwrap makes a refused signature recognizable as bccsp.ErrBadSignature.
func (e *Error) Unwrap() error {
	if e.Class == ClassBadSignature {
		return bccsp.ErrBadSignature
	}
	return nil
}

// classOf is the class of an error, ClassOther for one that is not a token's.
func classOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	if errors.Is(err, errStale) {
		return ClassHandle
	}
	if errors.Is(err, errPINSource) {
		return ClassModule
	}
	return ClassOther
}

// hasCode tells whether err is a token's error with one of the codes.
func hasCode(err error, codes ...uint) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e.Code == c {
			return true
		}
	}
	return false
}

// tokenError makes an *Error of an error that miekg/pkcs11 returned, nil of nil.
func tokenError(op string, slot uint, err error) error {
	if err == nil {
		return nil
	}
	var code p11.Error
	if !errors.As(err, &code) {
		return fmt.Errorf("%s on slot %d: %w", op, slot, err)
	}
	return &Error{Op: op, Code: uint(code), Name: codeName(uint(code)), Slot: slot, Class: classify(op, uint(code))}
}

// classify sorts a CK_RV. Only the answers of C_Verify can speak about a signature.
func classify(op string, code uint) Class {
	switch code {
	case p11.CKR_SIGNATURE_INVALID, p11.CKR_SIGNATURE_LEN_RANGE:
		if op == "C_Verify" {
			return ClassBadSignature
		}
	case p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_OPERATION_ACTIVE, p11.CKR_OPERATION_NOT_INITIALIZED:
		return ClassSession
	case p11.CKR_OBJECT_HANDLE_INVALID, p11.CKR_KEY_HANDLE_INVALID,
		p11.CKR_WRAPPING_KEY_HANDLE_INVALID, p11.CKR_UNWRAPPING_KEY_HANDLE_INVALID:
		return ClassHandle
	case p11.CKR_USER_NOT_LOGGED_IN:
		return ClassLogin
	case p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_REMOVED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED,
		p11.CKR_CRYPTOKI_NOT_INITIALIZED, p11.CKR_SLOT_ID_INVALID:
		return ClassModule
	case p11.CKR_SESSION_COUNT, p11.CKR_DEVICE_MEMORY, p11.CKR_HOST_MEMORY:
		return ClassBusy
	case p11.CKR_PIN_INCORRECT, p11.CKR_PIN_LOCKED, p11.CKR_PIN_EXPIRED, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE,
		p11.CKR_FUNCTION_FAILED:
		return ClassStop
	case p11.CKR_GENERAL_ERROR:
		if !cryptoCalls[op] {
			return ClassModule
		}
	default:
		if _, known := codeNames[code]; !known {
			return ClassModule
		}
	}
	return ClassOther
}

// cryptoCalls are the calls whose CKR_GENERAL_ERROR speaks about their input.
var cryptoCalls = map[string]bool{
	"C_SignInit": true, "C_Sign": true, "C_VerifyInit": true, "C_Verify": true,
	"C_WrapKey": true, "C_UnwrapKey": true, "C_GenerateKey": true, "C_GenerateKeyPair": true, "C_CreateObject": true,
}

func codeName(code uint) string {
	if name, ok := codeNames[code]; ok {
		return name
	}
	return fmt.Sprintf("CKR_0x%08X", code)
}
