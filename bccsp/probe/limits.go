package probe

import (
	"crypto/elliptic"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	p11 "github.com/miekg/pkcs11"
)

// sessionsTried bounds how many sessions are opened to find a limit.
const (
	sessionsTried = 2048
	sessionsQuick = 128
)

func (b *Bench) openSession() (p11.SessionHandle, error) {
	s, err := b.module.OpenSession(b.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	return s, call("C_OpenSession", err)
}

func (b *Bench) checkShared(bool) (string, error) {
	public, private, err := b.pair(b.session, elliptic.P256())
	if err != nil {
		return "", err
	}
	other, err := b.openSession()
	if err != nil {
		return "", err
	}
	defer b.module.CloseSession(other)
	sig, err := b.sign(other, private, sample[:])
	if err != nil {
		return "", fmt.Errorf("in another session: %w", err)
	}
	if err := b.verify(other, public, sample[:], sig); err != nil {
		return "", fmt.Errorf("in another session: %w", err)
	}
	return "", nil
}

// checkSessions opens sessions until the device refuses; its detail begins with their
// number.
func (b *Bench) checkSessions(quick bool) (string, error) {
	limit := sessionsTried
	if quick {
		limit = sessionsQuick
	}
	var open []p11.SessionHandle
	defer func() {
		for _, s := range open {
			_ = b.module.CloseSession(s)
		}
	}()
	for len(open) < limit {
		s, err := b.openSession()
		if err != nil {
			if lost(err) {
				return "", err
			}
			return fmt.Sprintf("%d more sessions, then %v", len(open), err), nil
		}
		open = append(open, s)
	}
	return fmt.Sprintf("%d more sessions, and no limit met", len(open)), nil
}

// enough holds the number of sessions against the profile's.
func (b *Bench) enough(detail string, want int, quick bool) error {
	word, _, _ := strings.Cut(detail, " ")
	opened, err := strconv.Atoi(word)
	if err != nil {
		return fmt.Errorf("session count %q: %w", word, err)
	}
	limit := sessionsTried
	if quick {
		limit = sessionsQuick
	}
	if want < 0 || want-1 > limit {
		want = limit + 1
	}
	if opened+1 < want {
		return fmt.Errorf("%d sessions, where the profile says %d: %s", opened+1, want, detail)
	}
	if opened+1 < 2 {
		return errors.New("no second session can be opened: " + detail)
	}
	return nil
}

func (b *Bench) checkParallel(quick bool) (string, error) {
	public, private, err := b.pair(b.session, elliptic.P256())
	if err != nil {
		return "", err
	}
	rounds := 100
	if quick {
		rounds = 10
	}
	const sessions = 8
	signatures := make([][][]byte, sessions)
	errs := make([]error, sessions)
	var wg sync.WaitGroup
	for i := range sessions {
		s, err := b.openSession()
		if err != nil {
			wg.Wait()
			return "", err
		}
		defer b.module.CloseSession(s)
		wg.Go(func() {
			for range rounds {
				sig, err := b.sign(s, private, sample[:])
				if err != nil {
					errs[i] = err
					return
				}
				signatures[i] = append(signatures[i], sig)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	for _, of := range signatures {
		for _, sig := range of {
			if err := b.verify(b.session, public, sample[:], sig); err != nil {
				return "", fmt.Errorf("a signature made beside others is false: %w", err)
			}
		}
	}
	return fmt.Sprintf("%d signatures", sessions*rounds), nil
}

func (b *Bench) checkLeaks(quick bool) (string, error) {
	rounds := 2000
	if quick {
		rounds = 200
	}
	before := resident()
	for range rounds {
		h, err := b.module.CreateObject(b.session, []*p11.Attribute{
			p11.NewAttribute(p11.CKA_CLASS, p11.CKO_DATA), p11.NewAttribute(p11.CKA_TOKEN, false), p11.NewAttribute(p11.CKA_PRIVATE, false),
			p11.NewAttribute(p11.CKA_LABEL, label), p11.NewAttribute(p11.CKA_VALUE, sample[:])})
		if err != nil {
			return "", missing(call("C_CreateObject", err))
		}
		if err := b.module.DestroyObject(b.session, h); err != nil {
			return "", call("C_DestroyObject", err)
		}
	}
	grown := resident() - before
	left, err := b.find(p11.NewAttribute(p11.CKA_LABEL, label))
	if err != nil {
		return "", err
	}
	if len(left) > 0 {
		return "", fmt.Errorf("%d of %d destroyed objects are still found", len(left), rounds)
	}
	return fmt.Sprintf("%d objects made and destroyed; this process grew by %d bytes an object", rounds, max(grown, 0)/int64(rounds)), nil
}

// find lists the objects that a template names, a hundred at most.
func (b *Bench) find(template ...*p11.Attribute) ([]p11.ObjectHandle, error) {
	if err := b.module.FindObjectsInit(b.session, template); err != nil {
		return nil, call("C_FindObjectsInit", err)
	}
	found, _, err := b.module.FindObjects(b.session, 100)
	return found, errors.Join(call("C_FindObjects", err), call("C_FindObjectsFinal", b.module.FindObjectsFinal(b.session)))
}

// resident is the memory of this process in bytes, proc(5); 0 where it is not told.
func resident() int64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// checkLogout comes last: logging out ends the private keys of all sessions.
func (b *Bench) checkLogout(bool) (string, error) {
	if !b.login {
		return "", fmt.Errorf("%w: the token needs no login", errMissing)
	}
	_, private, err := b.pair(b.session, elliptic.P256())
	if err != nil {
		return "", err
	}
	if _, err := b.sign(b.session, private, sample[:]); err != nil {
		return "", err
	}
	if err := b.module.Logout(b.session); err != nil {
		return "", call("C_Logout", err)
	}
	_, signErr := b.sign(b.session, private, sample[:])
	if err := b.logIn(); err != nil {
		return "", err
	}
	if signErr == nil {
		return "", errors.New("a private key signed after C_Logout")
	}
	if lost(signErr) {
		return "", signErr
	}
	return signErr.Error(), nil
}
