package policy

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Bounds of a team's Rego.
const (
	maxSource       = 1 << 20 // bytes of all files of a program
	maxReasons      = 32
	maxReason       = 512 // bytes
	defaultDeadline = time.Second
)

// ProgramConfig says what Rego to load and what it decides about.
type ProgramConfig struct {
	// Path is a .rego file, or a folder whose .rego files are loaded (folders below
	// it are not). Files named *_test.rego hold tests: those beside a single file
	// with its name, those in a folder all.
	Path string
	// Package is the package that decides, such as "strongroom.acl.channel".
	Package string
	// Schema is the JSON Schema of the input. With it, a policy that reads a field
	// which the input does not have is refused when it is loaded. Empty means that
	// every field is allowed, and that a misspelt one is quietly undefined.
	Schema []byte
	// Deadline bounds one evaluation; 0 means a second.
	Deadline time.Duration
	// PublicReasons says that the package may define public_reason, a set like deny,
	// whose texts may be told to the caller.
	PublicReasons bool
	// Conditions says that the package may define conditions, a set of what must hold
	// besides (Condition). Whoever sets it must check them.
	Conditions bool
	// Ledger makes a program for Judge: it decides about the ledger, under fewer built-in
	// functions and a budget of steps.
	Ledger bool
	// Data is what the rules see as data besides themselves: a JSON document. Nothing
	// may change it afterwards. Only bundles bring one.
	Data map[string]any
	// Bundle is where the files came from, zero if not from a bundle.
	Bundle BundleRef
}

// BundleRef names a bundle: its revision, from 1, and the SHA-256 of its archive.
type BundleRef struct {
	Revision uint64
	Digest   Digest
}

// Cut is the name under which an evaluation that its deadline ended is counted.
const Cut = "cut"

// Verdict is what a Program said.
type Verdict struct {
	Allowed bool
	Reasons []string // of deny, sorted; for logs
	Public  []string // of public_reason, sorted; for the caller, when the verdict is no
	// Conditions must hold besides, when the verdict is yes.
	Conditions []Condition
}

// Program is a team's own Rego, compiled. The convention for its package:
//
//	default allow := false               # needed, so that nothing is allowed by omission
//	allow if …                           # what is allowed
//	deny contains "a reason" if …        # optional: refuses whatever allow says
//	conditions contains {…} if …         # optional, where the caller checks them: see Condition
//
// A Program is immutable and safe for concurrent use; a new version of its files is
// a new Program, to be swapped in by an atomic.Pointer.
type Program struct {
	config   ProgramConfig
	digest   Digest
	compiler *ast.Compiler
	query    ast.Body
	data     *data
}

// LoadProgram reads, checks and compiles the Rego at cfg.Path, and runs the tests
// that lie beside it. The error lists every fault with its file and line and what to
// do. Rego is version 1, strict, and may call only deterministic built-in functions
// that reach nothing outside of the input (capabilities.go).
func LoadProgram(ctx context.Context, cfg ProgramConfig) (*Program, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	files, err := readRego(cfg.Path)
	if err != nil {
		return nil, err
	}
	return newProgram(ctx, cfg, files)
}

// ParseProgram is LoadProgram for files that are at hand, by name; it performs no I/O.
func ParseProgram(ctx context.Context, cfg ProgramConfig, files map[string][]byte) (*Program, error) {
	if cfg.Path == "" {
		cfg.Path = "(in memory)"
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return newProgram(ctx, cfg, files)
}

func (cfg *ProgramConfig) validate() error {
	if cfg.Path == "" {
		return errors.New("Rego program: Path is empty: name a .rego file or a folder of them")
	}
	if _, err := ast.ParseRef("data." + cfg.Package); cfg.Package == "" || err != nil {
		return fmt.Errorf("Rego program %s: Package %q is not a Rego package name such as \"strongroom.acl.channel\"", cfg.Path, cfg.Package)
	}
	if cfg.Deadline < 0 {
		return fmt.Errorf("Rego program %s: Deadline is negative: use 0 for %s", cfg.Path, defaultDeadline)
	}
	if cfg.Deadline == 0 {
		cfg.Deadline = defaultDeadline
	}
	return nil
}

// readRego reads a file and its tests, or the files of a folder.
func readRego(path string) (map[string][]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("Rego program: %w", err)
	}
	var names []string
	if info.IsDir() {
		if names, err = filepath.Glob(filepath.Join(path, "*.rego")); err != nil {
			return nil, fmt.Errorf("Rego program: %w", err)
		}
	} else {
		if filepath.Ext(path) != ".rego" {
			return nil, fmt.Errorf("Rego program %s: the file's name must end in .rego", path)
		}
		names = []string{path}
		test := strings.TrimSuffix(path, ".rego") + "_test.rego"
		if _, err := os.Stat(test); err == nil {
			names = append(names, test)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("Rego program: %w", err)
		}
	}
	files := make(map[string][]byte, len(names))
	size := int64(0)
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("Rego program: %w", err)
		}
		if size += info.Size(); size > maxSource {
			return nil, fmt.Errorf("Rego program %s: more than %d bytes of source", path, maxSource)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("Rego program: %w", err)
		}
		files[name] = b
	}
	return files, nil
}

func newProgram(ctx context.Context, cfg ProgramConfig, files map[string][]byte) (*Program, error) {
	size := 0
	for _, b := range files {
		size += len(b)
	}
	if size > maxSource {
		return nil, fmt.Errorf("Rego program %s: more than %d bytes of source", cfg.Path, maxSource)
	}
	modules, tests, err := parseModules(files)
	if err != nil {
		return nil, fmt.Errorf("Rego program %s: %w", cfg.Path, err)
	}
	p := &Program{config: cfg}
	if p.digest, err = digestFiles(cfg.Package, files, cfg.Data); err != nil {
		return nil, fmt.Errorf("Rego program %s: %w", cfg.Path, err)
	}
	if err := p.compile(modules); err != nil {
		return nil, fmt.Errorf("Rego program %s: %w", cfg.Path, err)
	}
	if p.data, err = newData(cfg.Data); err != nil {
		return nil, fmt.Errorf("Rego program %s: %w", cfg.Path, err)
	}
	if len(tests) > 0 {
		results, err := runTests(ctx, cfg, files, nil)
		if err == nil {
			err = failures(results)
		}
		if err != nil {
			return nil, fmt.Errorf("Rego program %s: %w", cfg.Path, err)
		}
	}
	return p, nil
}

// Digest names the program: the SHA-256 of its package and of its files' names and
// contents and of its data, tests not counted.
func (p *Program) Digest() Digest { return p.digest }

// Path is where the program was loaded from.
func (p *Program) Path() string { return p.config.Path }

// Bundle is where the program came from, zero if not from a bundle.
func (p *Program) Bundle() BundleRef { return p.config.Bundle }

// Package is the package that decides.
func (p *Program) Package() string { return p.config.Package }

// Decide evaluates the program. The input is an ast.Value or anything that encodes
// to JSON, and must not be nil. The call is allowed if allow is true and deny is
// empty; the reasons are those of deny, sorted. An error (of a built-in function, two
// rules that contradict each other, the deadline, the context) means that nothing
// was decided: refuse.
func (p *Program) Decide(ctx context.Context, input any) (allowed bool, reasons []string, err error) {
	v, err := p.Verdict(ctx, input)
	return v.Allowed, v.Reasons, err
}

// Verdict is Decide with the public reasons.
func (p *Program) Verdict(ctx context.Context, input any) (v Verdict, err error) {
	value, err := inputValue(input)
	if err != nil {
		return v, fmt.Errorf("%w: %s: %w", ErrEvaluation, p.config.Package, err)
	}
	ctx, cancel := context.WithTimeout(ctx, p.config.Deadline)
	defer cancel()
	rs, err := evalQuery(ctx, p.compiler, p.data, p.query, ast.NewTerm(value))
	if err != nil {
		return v, fmt.Errorf("%s: %w", p.config.Package, err)
	}
	return p.read(rs)
}

// read takes a verdict out of the query's result.
func (p *Program) read(rs topdown.QueryResultSet) (v Verdict, err error) {
	if len(rs) != 1 {
		return v, fmt.Errorf("%w: %s: %d results instead of 1", ErrEvaluation, p.config.Package, len(rs))
	}
	allow, ok := rs[0]["allow"].Value.(ast.Boolean)
	if !ok {
		return v, fmt.Errorf("%w: %s.allow is %s: it must be true or false", ErrEvaluation, p.config.Package, ast.ValueName(rs[0]["allow"].Value))
	}
	if deny, ok := rs[0]["deny"]; ok {
		set, ok := deny.Value.(ast.Set)
		if !ok {
			return v, fmt.Errorf("%w: %s.deny is %s: it must be a set of reasons", ErrEvaluation, p.config.Package, ast.ValueName(deny.Value))
		}
		v.Reasons = reasonsOf(set)
	}
	if public, ok := rs[0]["public_reason"]; ok {
		set, ok := public.Value.(ast.Set)
		if !ok {
			return Verdict{}, fmt.Errorf("%w: %s.public_reason is %s: it must be a set of texts", ErrEvaluation, p.config.Package, ast.ValueName(public.Value))
		}
		v.Public = reasonsOf(set)
	}
	if conditions, ok := rs[0]["conditions"]; ok {
		set, ok := conditions.Value.(ast.Set)
		if !ok {
			return Verdict{}, fmt.Errorf("%w: %s.conditions is %s: it must be a set of objects", ErrEvaluation, p.config.Package, ast.ValueName(conditions.Value))
		}
		if v.Conditions, err = parseConditions(set); err != nil {
			return Verdict{}, fmt.Errorf("%w: %s: %w", ErrEvaluation, p.config.Package, err)
		}
	}
	v.Allowed = bool(allow) && len(v.Reasons) == 0
	return v, nil
}

func inputValue(input any) (ast.Value, error) {
	switch v := input.(type) {
	case nil:
		return nil, errors.New("there is no input")
	case ast.Value:
		return v, nil
	}
	return ast.InterfaceToValue(input)
}

func reasonsOf(set ast.Set) []string {
	var reasons []string
	for _, t := range set.Slice() {
		if len(reasons) == maxReasons {
			break
		}
		s, ok := t.Value.(ast.String)
		if !ok {
			s = ast.String(t.Value.String())
		}
		if len(s) > maxReason {
			s = s[:maxReason]
		}
		reasons = append(reasons, strings.ToValidUTF8(string(s), ""))
	}
	slices.Sort(reasons)
	return reasons
}

// compile checks the modules and makes the query for allow and, if it is there, deny.
func (p *Program) compile(modules map[string]*ast.Module) error {
	c, err := compileModules(p.config, modules)
	if err != nil {
		return err
	}
	sets, err := checkEntrypoints(c, p.config)
	if err != nil {
		return err
	}
	q := "allow = data." + p.config.Package + ".allow"
	for _, name := range sets {
		q += "; " + name + " = data." + p.config.Package + "." + name
	}
	body, err := ast.ParseBodyWithOpts(q, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: teamCapabilities()})
	if err != nil {
		return fmt.Errorf("query: %w", err)
	}
	if p.query, err = c.QueryCompiler().Compile(body); err != nil {
		return fmt.Errorf("query: %w", err)
	}
	p.compiler = c
	return nil
}

func compileModules(cfg ProgramConfig, modules map[string]*ast.Module) (*ast.Compiler, error) {
	c, err := newCompiler(cfg)
	if err != nil {
		return nil, err
	}
	if c.Compile(modules); c.Failed() {
		return nil, explain(c.Errors)
	}
	return c, nil
}

// newCompiler makes the compiler of a team's Rego.
func newCompiler(cfg ProgramConfig) (*ast.Compiler, error) {
	capabilities := teamCapabilities()
	if cfg.Ledger {
		capabilities = ledgerTeamCapabilities()
	}
	c := ast.NewCompiler().WithCapabilities(capabilities).WithStrict(true).WithDefaultRegoVersion(ast.RegoV1)
	if len(cfg.Schema) > 0 {
		var schema any
		if err := json.Unmarshal(cfg.Schema, &schema); err != nil {
			return nil, fmt.Errorf("the input's schema is not JSON: %w", err)
		}
		set := ast.NewSchemaSet()
		set.Put(ast.SchemaRootRef, schema)
		c = c.WithSchemas(set).WithUseTypeCheckAnnotations(true)
	}
	return c, nil
}

func digestFiles(pkg string, files map[string][]byte, data map[string]any) (Digest, error) {
	h := sha256.New()
	field := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	field([]byte("strongroom program 1"))
	field([]byte(pkg))
	names := make([]string, 0, len(files))
	for name := range files {
		if !IsTest(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		field([]byte(filepath.Base(name)))
		field(files[name])
	}
	if len(data) > 0 {
		document, err := json.Marshal(data)
		if err != nil {
			return Digest{}, fmt.Errorf("data: %w", err)
		}
		field([]byte("data"))
		field(document)
	}
	return Digest(h.Sum(nil)), nil
}

// IsTest tells whether a file of this name holds tests.
func IsTest(name string) bool { return strings.HasSuffix(name, "_test.rego") }
