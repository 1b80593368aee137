package pkcs11

/*
#include "functions.h"

struct mechanism { // CK_MECHANISM
	unsigned long type;
	void *parameter;
	unsigned long length;
};

struct answer {
	unsigned long rv;
	unsigned long length; // of the signature
	int began;            // the first of both calls succeeded
};

static struct answer sign(struct functions *f, unsigned long session, unsigned long type, unsigned long key,
		unsigned char *data, unsigned long size, unsigned char *signature, unsigned long room) {
	struct mechanism m = {type, NULL, 0};
	struct answer a = {0, room, 0};
	a.rv = ((unsigned long (*)(unsigned long, struct mechanism *, unsigned long))f->at[at_sign_init])(session, &m, key);
	if (a.rv != 0)
		return a;
	a.began = 1;
	a.rv = ((unsigned long (*)(unsigned long, unsigned char *, unsigned long, unsigned char *, unsigned long *))f->at[at_sign])
		(session, data, size, signature, &a.length);
	return a;
}

static struct answer verify(struct functions *f, unsigned long session, unsigned long type, unsigned long key,
		unsigned char *data, unsigned long size, unsigned char *signature, unsigned long length) {
	struct mechanism m = {type, NULL, 0};
	struct answer a = {0, length, 0};
	a.rv = ((unsigned long (*)(unsigned long, struct mechanism *, unsigned long))f->at[at_verify_init])(session, &m, key);
	if (a.rv != 0)
		return a;
	a.began = 1;
	a.rv = ((unsigned long (*)(unsigned long, unsigned char *, unsigned long, unsigned char *, unsigned long))f->at[at_verify])
		(session, data, size, signature, length);
	return a;
}
*/
import "C"

import (
	"fmt"

	p11 "github.com/miekg/pkcs11"
)

// Signing and verifying are one step into C each. The binding takes one for each function,
// copies the mechanism for each operation, and asks C_Sign for the signature's size before
// it asks for the signature: where each call is a journey to the device, three for a
// signature instead of two.

// maxSignature is the room for a signature; a device that wants more says so.
const maxSignature = 256

// sign is C_SignInit and C_Sign. Data is not empty. An error comes with the function that
// gave it.
func (f functions) sign(session p11.SessionHandle, mechanism uint, key p11.ObjectHandle, data []byte) (signature []byte, function string, err error) {
	out := make([]byte, maxSignature)
	a := C.sign(f.list, C.ulong(session), C.ulong(mechanism), C.ulong(key),
		(*C.uchar)(&data[0]), C.ulong(len(data)), (*C.uchar)(&out[0]), maxSignature)
	if a.rv != 0 {
		return nil, which(a, "C_SignInit", "C_Sign"), p11.Error(a.rv)
	}
	if a.length > maxSignature {
		return nil, "C_Sign", fmt.Errorf("it says that it wrote %d bytes into %d", a.length, maxSignature)
	}
	return out[:a.length], "", nil
}

// verify is C_VerifyInit and C_Verify, as sign is otherwise.
func (f functions) verify(session p11.SessionHandle, mechanism uint, key p11.ObjectHandle, data, signature []byte) (function string, err error) {
	a := C.verify(f.list, C.ulong(session), C.ulong(mechanism), C.ulong(key),
		(*C.uchar)(&data[0]), C.ulong(len(data)), (*C.uchar)(&signature[0]), C.ulong(len(signature)))
	if a.rv != 0 {
		return which(a, "C_VerifyInit", "C_Verify"), p11.Error(a.rv)
	}
	return "", nil
}

func which(a C.struct_answer, first, second string) string {
	if a.began == 0 {
		return first
	}
	return second
}
