// Package probe holds a live PKCS #11 token against the conformance suite: checks as
// data, that `strongroom token probe` and the Go tests run alike. It asks the module
// itself, not through bccsp/pkcs11, to see what that driver would never let it do. It
// uses test keys of its own, and leaves nothing in the token.
package probe

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"
	"unsafe"

	p11 "github.com/miekg/pkcs11"

	"strongroom/bccsp/pkcs11"
)

// Module is what the suite asks of a PKCS #11 library; *pkcs11.Ctx of miekg/pkcs11 is
// one. The names are those of the C functions.
type Module interface {
	GetMechanismList(slot uint) ([]*p11.Mechanism, error)
	OpenSession(slot uint, flags uint) (p11.SessionHandle, error)
	CloseSession(p11.SessionHandle) error
	Login(s p11.SessionHandle, userType uint, pin string) error
	Logout(p11.SessionHandle) error
	CreateObject(p11.SessionHandle, []*p11.Attribute) (p11.ObjectHandle, error)
	DestroyObject(p11.SessionHandle, p11.ObjectHandle) error
	GetAttributeValue(p11.SessionHandle, p11.ObjectHandle, []*p11.Attribute) ([]*p11.Attribute, error)
	SetAttributeValue(p11.SessionHandle, p11.ObjectHandle, []*p11.Attribute) error
	FindObjectsInit(p11.SessionHandle, []*p11.Attribute) error
	FindObjects(p11.SessionHandle, int) ([]p11.ObjectHandle, bool, error)
	FindObjectsFinal(p11.SessionHandle) error
	GenerateKey(p11.SessionHandle, []*p11.Mechanism, []*p11.Attribute) (p11.ObjectHandle, error)
	GenerateKeyPair(s p11.SessionHandle, m []*p11.Mechanism, public, private []*p11.Attribute) (p11.ObjectHandle, p11.ObjectHandle, error)
	GenerateRandom(p11.SessionHandle, int) ([]byte, error)
	SignInit(p11.SessionHandle, []*p11.Mechanism, p11.ObjectHandle) error
	Sign(p11.SessionHandle, []byte) ([]byte, error)
	VerifyInit(p11.SessionHandle, []*p11.Mechanism, p11.ObjectHandle) error
	Verify(s p11.SessionHandle, data, signature []byte) error
	EncryptInit(p11.SessionHandle, []*p11.Mechanism, p11.ObjectHandle) error
	Encrypt(p11.SessionHandle, []byte) ([]byte, error)
	DecryptInit(p11.SessionHandle, []*p11.Mechanism, p11.ObjectHandle) error
	Decrypt(p11.SessionHandle, []byte) ([]byte, error)
	WrapKey(s p11.SessionHandle, m []*p11.Mechanism, wrapping, key p11.ObjectHandle) ([]byte, error)
	UnwrapKey(s p11.SessionHandle, m []*p11.Mechanism, key p11.ObjectHandle, wrapped []byte, a []*p11.Attribute) (p11.ObjectHandle, error)
}

// Options say which token to probe.
type Options struct {
	Module        string // path of the library
	Label, Serial string // of the token, one or both
	PIN           pkcs11.PINSource
	Reserved      string // for pReserved of C_Initialize, where the library needs it
}

// Bench is an open token under test. It is for one goroutine.
type Bench struct {
	module  Module
	slot    uint
	session p11.SessionHandle
	pin     pkcs11.PINSource
	login   bool
	token   Token
	offers  map[uint]bool // mechanisms of the slot
	made    []object
	finish  func() error
}

// object is what a check made, with the session that can destroy it.
type object struct {
	session p11.SessionHandle
	handle  p11.ObjectHandle
}

// Token describes the device, in its own words.
type Token struct {
	Label           string `json:"label"`
	Serial          string `json:"serial"`
	Manufacturer    string `json:"manufacturer"`
	Model           string `json:"model"`
	Firmware        string `json:"firmware"`
	Library         string `json:"library"`
	LibraryVersion  string `json:"libraryVersion"`
	CryptokiVersion string `json:"cryptokiVersion"`
	Module          string `json:"module"`
	MaxSessions     uint   `json:"maxSessionsReported"` // 0: unbounded; all ones: not told
}

// Open loads the library, which no other part of the process may be using, finds the
// token and logs in, once. The caller closes the bench.
func Open(o Options) (_ *Bench, err error) {
	ctx := p11.New(o.Module)
	if ctx == nil {
		return nil, fmt.Errorf("module %q cannot be loaded: check that it is a PKCS #11 library for this machine", o.Module)
	}
	var opts []p11.InitializeOption
	if o.Reserved != "" {
		text := append([]byte(o.Reserved), 0)
		var pinner runtime.Pinner
		pinner.Pin(&text[0])
		defer pinner.Unpin()
		opts = append(opts, p11.InitializeWithReserved(unsafe.Pointer(&text[0])))
	}
	if err := ctx.Initialize(opts...); err != nil {
		return nil, fmt.Errorf("module %q: C_Initialize: %w: check its configuration, its environment and --reserved", o.Module, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ctx.Finalize())
		}
	}()
	slot, info, err := find(ctx, o)
	if err != nil {
		return nil, err
	}
	b := &Bench{module: ctx, slot: slot, pin: o.PIN, login: info.Flags&p11.CKF_LOGIN_REQUIRED != 0, finish: ctx.Finalize, token: describe(info)}
	b.token.Module = o.Module
	if lib, err := ctx.GetInfo(); err == nil {
		b.token.Library, b.token.LibraryVersion, b.token.CryptokiVersion = trim(lib.LibraryDescription), version(lib.LibraryVersion), version(lib.CryptokiVersion)
	}
	if b.login && info.Flags&(p11.CKF_USER_PIN_LOCKED|p11.CKF_USER_PIN_FINAL_TRY) != 0 {
		return nil, fmt.Errorf("token %q: its PIN is locked or one wrong PIN from it: log in by hand with its vendor's tool first", b.token.Label)
	}
	return b, b.start()
}

// start opens the session that the checks use, and logs in.
func (b *Bench) start() (err error) {
	if b.session, err = b.module.OpenSession(b.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION); err != nil {
		return call("C_OpenSession", err)
	}
	mechanisms, err := b.module.GetMechanismList(b.slot)
	if err != nil {
		return call("C_GetMechanismList", err)
	}
	b.offers = make(map[uint]bool)
	for _, m := range mechanisms {
		b.offers[m.Mechanism] = true
	}
	return b.logIn()
}

func (b *Bench) logIn() error {
	if !b.login {
		return nil
	}
	pin, err := b.pin.Read()
	if err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	defer clear(pin)
	err = b.module.Login(b.session, p11.CKU_USER, string(pin))
	if is(err, p11.CKR_USER_ALREADY_LOGGED_IN) {
		return nil
	}
	return call("C_Login", err)
}

func find(ctx *p11.Ctx, o Options) (slot uint, info p11.TokenInfo, err error) {
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return 0, info, call("C_GetSlotList", err)
	}
	var seen []string
	matches := 0
	for _, s := range slots {
		i, err := ctx.GetTokenInfo(s)
		if err != nil || i.Flags&p11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		seen = append(seen, fmt.Sprintf("label %q serial %q", trim(i.Label), trim(i.SerialNumber)))
		if (o.Label == "" || trim(i.Label) == o.Label) && (o.Serial == "" || trim(i.SerialNumber) == o.Serial) {
			slot, info = s, i
			matches++
		}
	}
	if matches != 1 {
		return 0, info, fmt.Errorf("%d tokens with label %q and serial %q in %s, which has %s: name exactly one", matches, o.Label, o.Serial, o.Module, strings.Join(seen, ", "))
	}
	return slot, info, nil
}

func describe(i p11.TokenInfo) Token {
	return Token{Label: trim(i.Label), Serial: trim(i.SerialNumber), Manufacturer: trim(i.ManufacturerID), Model: trim(i.Model),
		Firmware: version(i.FirmwareVersion), MaxSessions: i.MaxSessionCount}
}

func trim(s string) string { return strings.TrimRight(s, " \x00") }

func version(v p11.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Close destroys what is left of the suite, ends the session and gives the library back.
func (b *Bench) Close() error {
	b.sweep()
	left, err := b.find(p11.NewAttribute(p11.CKA_LABEL, label))
	for _, h := range left { // keys of the token that a logout took the handles of
		err = errors.Join(err, call("C_DestroyObject", b.module.DestroyObject(b.session, h)))
	}
	if err != nil {
		err = fmt.Errorf("objects of the probe, label %q, may be left in the token: %w", label, err)
	}
	err = errors.Join(err, call("C_CloseSession", b.module.CloseSession(b.session)))
	return errors.Join(err, call("C_Finalize", b.finish()))
}

// sweep destroys what checks made and have not destroyed.
func (b *Bench) sweep() {
	for _, o := range b.made {
		_ = b.module.DestroyObject(o.session, o.handle) // gone already where a check ended its session
	}
	b.made = nil
}

// callTimeout bounds one check.
const callTimeout = 2 * time.Minute

// errHangs means that the module did not come back: nothing more can be asked of it.
var errHangs = errors.New("the module does not answer")

// bounded runs f, but waits no longer than callTimeout and ctx allow.
func bounded(ctx context.Context, f func() (string, error)) (string, error) {
	type answer struct {
		detail string
		err    error
	}
	done := make(chan answer, 1)
	go func() {
		detail, err := f()
		done <- answer{detail, err}
	}()
	limit := time.NewTimer(callTimeout)
	defer limit.Stop()
	select {
	case a := <-done:
		return a.detail, a.err
	case <-limit.C:
		return "", fmt.Errorf("%w within %s", errHangs, callTimeout)
	case <-ctx.Done():
		return "", fmt.Errorf("%w: %w", errHangs, context.Cause(ctx))
	}
}

// call names the function that failed.
func call(function string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", function, err)
}

// is tells whether err is one of the return values.
func is(err error, codes ...uint) bool {
	var code p11.Error
	if !errors.As(err, &code) {
		return false
	}
	for _, c := range codes {
		if uint(code) == c {
			return true
		}
	}
	return false
}
