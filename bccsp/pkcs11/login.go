package pkcs11

// The binding copies a PIN to C memory, frees that without wiping it, and so leaves the
// PIN in the process for whoever reads its memory later. The calls that take a PIN
// are therefore made here, with the PIN in a page of its own that is locked, kept out of
// core dumps, and wiped when the call has returned.

/*
#include "functions.h"

static unsigned long call_login(struct functions *f, unsigned long session, unsigned long user, unsigned char *pin, unsigned long len) {
	return ((unsigned long (*)(unsigned long, unsigned long, unsigned char *, unsigned long))f->at[at_login])(session, user, pin, len);
}

static unsigned long call_init_token(struct functions *f, unsigned long slot, unsigned char *pin, unsigned long len, unsigned char *label) {
	return ((unsigned long (*)(unsigned long, unsigned char *, unsigned long, unsigned char *))f->at[at_init_token])(slot, pin, len, label);
}

static unsigned long call_init_pin(struct functions *f, unsigned long session, unsigned char *pin, unsigned long len) {
	return ((unsigned long (*)(unsigned long, unsigned char *, unsigned long))f->at[at_init_pin])(session, pin, len);
}

static unsigned long call_set_pin(struct functions *f, unsigned long session, unsigned char *old, unsigned long old_len, unsigned char *new, unsigned long new_len) {
	return ((unsigned long (*)(unsigned long, unsigned char *, unsigned long, unsigned char *, unsigned long))f->at[at_set_pin])(session, old, old_len, new, new_len);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"
)

// withPINs calls f with copies of the PINs in locked memory, which is wiped afterwards.
func withPINs(f func(pins ...*C.uchar) C.ulong, pins ...[]byte) error {
	size := 0
	for _, pin := range pins {
		if len(pin) == 0 || len(pin) > maxPIN {
			return fmt.Errorf("PIN has %d bytes: give 1 to %d", len(pin), maxPIN)
		}
		size += len(pin)
	}
	page, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("map a page for the PIN: %w", err)
	}
	err = errors.Join(unix.Mlock(page), unix.Madvise(page, unix.MADV_DONTDUMP))
	if err != nil {
		return errors.Join(fmt.Errorf("lock a page for the PIN in memory: %w: raise the limit (RLIMIT_MEMLOCK, LimitMEMLOCK= of systemd)", err), unix.Munmap(page))
	}
	at, rest := make([]*C.uchar, 0, 2), page
	for _, pin := range pins {
		at = append(at, (*C.uchar)(unsafe.Pointer(&rest[0])))
		// One byte at a time: copy leaves up to 256 bytes in the vector registers, and the next
		// signal writes those to the stack of its handler, where they stay.
		//lint:ignore S1001 what copy would do is what is avoided
		for i := range pin {
			rest[i] = pin[i]
		}
		rest = rest[len(pin):]
	}
	rv := f(at...)
	clear(page)
	if err := unix.Munmap(page); err != nil {
		return err
	}
	if rv != 0 {
		return p11.Error(rv)
	}
	return nil
}

// login is C_Login.
func (f functions) login(session p11.SessionHandle, user uint, pin []byte) error {
	return withPINs(func(pins ...*C.uchar) C.ulong {
		return C.call_login(f.list, C.ulong(session), C.ulong(user), pins[0], C.ulong(len(pin)))
	}, pin)
}

// initToken is C_InitToken; the label is padded with blanks to its 32 bytes.
func (f functions) initToken(slot uint, pin []byte, label string) error {
	padded := fmt.Appendf(nil, "%-*s", maxTokenLabel, label)
	return withPINs(func(pins ...*C.uchar) C.ulong {
		return C.call_init_token(f.list, C.ulong(slot), pins[0], C.ulong(len(pin)), (*C.uchar)(unsafe.Pointer(&padded[0])))
	}, pin)
}

// initPIN is C_InitPIN.
func (f functions) initPIN(session p11.SessionHandle, pin []byte) error {
	return withPINs(func(pins ...*C.uchar) C.ulong {
		return C.call_init_pin(f.list, C.ulong(session), pins[0], C.ulong(len(pin)))
	}, pin)
}

// setPIN is C_SetPIN.
func (f functions) setPIN(session p11.SessionHandle, before, after []byte) error {
	return withPINs(func(pins ...*C.uchar) C.ulong {
		return C.call_set_pin(f.list, C.ulong(session), pins[0], C.ulong(len(before)), pins[1], C.ulong(len(after)))
	}, before, after)
}
