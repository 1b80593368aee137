package pkcs11

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	p11 "github.com/miekg/pkcs11"
)

// module is one PKCS #11 library in this process. C_Initialize and C_Finalize work
// on the whole process, so that all Tokens of one library share one module.
type module struct {
	path string
	ctx  *p11.Ctx

	mu   sync.Mutex // guards what follows, and is held over C_Initialize and C_Finalize
	refs int
	// generation counts the calls of C_Initialize. Handles of an earlier generation
	// are never used: the module may have given their numbers to other objects.
	generation uint64
	// stuck is set when a call never came back: C_Finalize is then undefined.
	stuck bool
}

// modules are the libraries loaded by this process, by their resolved path. A library
// is never unloaded: several keep threads or exit handlers that outlive C_Finalize.
var modules struct {
	sync.Mutex
	byPath map[string]*module
}

// acquireModule loads and initializes the library at path, or shares it.
func acquireModule(path string) (*module, error) {
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
	if m.refs == 0 && !m.stuck {
		if err := m.ctx.Initialize(); err != nil {
			err = tokenError("C_Initialize", 0, err)
			if hasCode(err, p11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
				return nil, fmt.Errorf("module %q is in use by another part of this process: only one may own it: %w", path, err)
			}
			return nil, fmt.Errorf("module %q does not start: check its configuration file and its environment: %w", path, err)
		}
		m.generation++
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
	m := &module{path: real, ctx: ctx}
	modules.byPath[real] = m
	return m, nil
}

// release gives the module back; the last one out finalizes it.
func (m *module) release() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refs--
	if m.refs > 0 || m.stuck {
		return nil
	}
	return tokenError("C_Finalize", 0, m.ctx.Finalize())
}

// markStuck notes that a call is lost inside the module.
func (m *module) markStuck() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stuck = true
}
