package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	p11 "github.com/miekg/pkcs11"
)

// module is one PKCS #11 library in this process. C_Initialize and C_Finalize work
// on the whole process, so that all Tokens of one library share one module.
type module struct {
	path  string
	ctx   *p11.Ctx
	calls functions

	// reserved is Config.Reserved, guarded by mu, and page its bytes in memory that is
	// not Go's: a module may keep the pointer for as long as it is loaded.
	reserved string
	page     []byte

	// mu guards refs, alive and changes of generation. It is held over C_Initialize
	// and C_Finalize, even when they hang.
	mu    sync.Mutex
	refs  int
	alive bool // C_Initialize succeeded and C_Finalize did not since

	// generation counts the calls of C_Initialize. Handles of an earlier generation
	// are never used: the module may have given their numbers to other objects. It
	// does not change while anyone is inside.
	generation atomic.Uint64

	// inside counts those who are between enter and leave, hung calls among them.
	inside atomic.Int64
	shut   atomic.Bool
	door   sync.Mutex    // guards opened, and changes of shut
	opened chan struct{} // closed when the module may be entered again
}

// errCallsHang means that the module cannot be started again: C_Finalize is undefined
// while another call is in the module (PKCS #11 v2.40 base specification, section 5.4).
var errCallsHang = errors.New("calls hang in the module, which cannot be finalized under them: if the device does not answer them, restart this process")

// modules are the libraries loaded by this process, by their resolved path. A library
// is never unloaded: several keep threads or exit handlers that outlive C_Finalize.
var modules struct {
	sync.Mutex
	byPath map[string]*module
}

// acquireModule loads and initializes the library at path, or shares it. All who share
// it must give the same string for C_Initialize.
func acquireModule(path, reserved string) (*module, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("module %q: %w", path, err)
	}
	if info, err := os.Stat(real); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("module %q is not a file: give the path of the PKCS #11 library", path)
	}
	m, err := loadModule(real)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refs > 0 && m.reserved != reserved {
		return nil, fmt.Errorf("module %q is started with reserved %q, and %q is wanted too: one library takes one string", path, m.reserved, reserved)
	}
	if !m.alive {
		if err := m.reserve(reserved); err != nil {
			return nil, err
		}
		if err := m.initialize(); err != nil {
			if hasCode(err, p11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
				return nil, fmt.Errorf("module %q is in use by another part of this process: only one may own it: %w", path, err)
			}
			return nil, fmt.Errorf("module %q does not start: check its configuration file, its environment, and whether it wants a string (reserved): %w", path, err)
		}
	}
	m.refs++
	return m, nil
}

func loadModule(real string) (*module, error) {
	modules.Lock()
	defer modules.Unlock()
	if m := modules.byPath[real]; m != nil {
		return m, nil
	}
	ctx := p11.New(real)
	if ctx == nil {
		return nil, fmt.Errorf("module %q cannot be loaded: check that it is a PKCS #11 library for this machine and that the libraries it needs are there (ldd shows them)", real)
	}
	if modules.byPath == nil {
		modules.byPath = make(map[string]*module)
	}
	calls, err := loadFunctions(real, ctx)
	if err != nil {
		return nil, err
	}
	m := &module{path: real, ctx: ctx, calls: calls}
	modules.byPath[real] = m
	return m, nil
}

// reserve puts the string for C_Initialize where C can read it, NUL-terminated, until the
// process ends. The caller holds m.mu.
func (m *module) reserve(text string) error {
	if text == m.reserved {
		return nil
	}
	page, err := syscall.Mmap(-1, 0, len(text)+1, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("memory for reserved: %w", err)
	}
	copy(page, text) // a former page stays: the module may know it
	m.page, m.reserved = page, text
	return nil
}

// initialize begins a generation. The caller holds m.mu.
func (m *module) initialize() error {
	var options []p11.InitializeOption
	if m.reserved != "" {
		options = append(options, p11.InitializeWithReserved(unsafe.Pointer(&m.page[0])))
	}
	if err := m.ctx.Initialize(options...); err != nil {
		return tokenError("C_Initialize", 0, err)
	}
	m.alive = true
	m.generation.Add(1)
	return nil
}

// release gives the module back; the last one out finalizes it, unless a call hangs.
func (m *module) release() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refs--
	if m.refs > 0 || !m.alive || m.inside.Load() > 0 {
		return nil
	}
	m.alive = false
	return tokenError("C_Finalize", 0, m.ctx.Finalize())
}

// enter waits until the module may be called, and keeps it from being finalized until
// leave.
func (m *module) enter() {
	for {
		m.inside.Add(1)
		if !m.shut.Load() {
			return
		}
		m.inside.Add(-1)
		m.door.Lock()
		opened, shut := m.opened, m.shut.Load()
		m.door.Unlock()
		if shut {
			<-opened
		}
	}
}

func (m *module) leave() { m.inside.Add(-1) }

func (m *module) shutDoor() {
	m.door.Lock()
	defer m.door.Unlock()
	m.opened = make(chan struct{})
	m.shut.Store(true)
}

func (m *module) openDoor() {
	m.door.Lock()
	defer m.door.Unlock()
	m.shut.Store(false)
	close(m.opened)
}

// restart is C_Finalize and C_Initialize, unless another Token has done it since the
// generation that the caller saw fail. Those who are inside are waited for.
func (m *module) restart(ctx context.Context, seen uint64) error {
	for !m.mu.TryLock() { // a hung C_Initialize keeps it
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("another start of the module does not end: %w", err)
		}
	}
	if m.alive && m.generation.Load() > seen {
		m.mu.Unlock()
		return nil
	}
	m.shutDoor()
	for m.inside.Load() > 0 {
		if err := pause(ctx, time.Millisecond); err != nil {
			m.openDoor()
			m.mu.Unlock()
			return errCallsHang
		}
	}
	done := make(chan error, 1)
	go func() {
		defer m.mu.Unlock()
		defer m.openDoor()
		var final error
		if m.alive {
			final = tokenError("C_Finalize", 0, m.ctx.Finalize())
			m.alive = false
		}
		err := m.initialize()
		if hasCode(err, p11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
			m.alive = true // C_Finalize did nothing: it is tried again
			err = errors.Join(final, err)
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the module does not start again: %w", context.Cause(ctx))
	}
}

// pause waits for d or for the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
