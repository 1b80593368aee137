package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"strongroom/appliance"
	"strongroom/appliance/config"
	"strongroom/ledger/auditlog"
	"strongroom/ledger/translog"
)

func policyLogCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "log", Short: "Read a node's decisions and administrative acts"}
	cmd.AddCommand(policyLogExportCommand())
	return cmd
}

// logExport are the flags of `policy log export`.
type logExport struct {
	config, out, format, cursor, bearer string
	from, to                            int64
	salts, follow                       bool
}

func policyLogExportCommand() *cobra.Command {
	var e logExport
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Export a node's audit log: to a file, to standard output, or to an HTTP service",
		Long: `Reads the audit log of the node with the configuration, which may run, with the node's
own token. There are three formats:

  slice    the records with the checkpoint that the HSM signed and the proof that they
           are in it: "strongroom-audit decisions" verifies it
  records  one record a line
  events   the decisions alone, as events of Open Policy Agent's decision log: one a
           line, or, to an http:// or https:// address, as OPA uploads them: gzipped
           arrays by POST

With --follow it goes on as the log grows, and with --cursor it begins where the last
export with this file ended. A batch that the service did not take is sent again.`,
		Example: "  strongroom policy log export --config peer.yaml --out decisions.jsonl\n  strongroom policy log export --config peer.yaml --format events --follow --cursor siem.cursor --out https://siem.example/logs",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.run(cmd)
		},
	}
	configFlag(cmd, &e.config, "peer.yaml")
	flags := cmd.Flags()
	flags.StringVar(&e.out, "out", "-", "`FILE`, - for standard output, or an http:// or https:// address")
	flags.StringVar(&e.format, "format", "slice", "slice, records or events")
	flags.Int64Var(&e.from, "from", -1, "first record; -1 is the first that is kept, or where the cursor is")
	flags.Int64Var(&e.to, "to", -1, "last record; -1 is the newest, in a slice the last that a checkpoint covers")
	flags.BoolVar(&e.salts, "salts", false, "put the salts of the inputs' hashes into a slice: whoever has them can try what masked fields held")
	flags.BoolVar(&e.follow, "follow", false, "go on as the log grows")
	flags.StringVar(&e.cursor, "cursor", "", "`FILE` that keeps how far exports came")
	flags.StringVar(&e.bearer, "bearer-file", "", "`FILE` with the bearer token for the HTTP service")
	return cmd
}

func (e *logExport) validate() error {
	switch {
	case e.format != "slice" && e.format != "records" && e.format != "events":
		return fmt.Errorf("--format is %q: use slice, records or events", e.format)
	case e.http() && e.format != "events":
		return errors.New("--format: an HTTP service takes events")
	case e.format == "slice" && (e.follow || e.cursor != ""):
		return errors.New("--format: a slice has an end: --follow and --cursor are for records and events")
	case e.salts && e.format != "slice":
		return errors.New("--salts is for the format slice")
	case e.bearer != "" && !strings.HasPrefix(e.out, "https://"):
		return errors.New("--bearer-file is for an https:// address")
	case e.from >= 0 && e.cursor != "":
		return errors.New("give either --from or --cursor")
	case e.follow && e.to >= 0:
		return errors.New("give either --follow or --to")
	}
	return nil
}

func (e *logExport) http() bool {
	return strings.HasPrefix(e.out, "http://") || strings.HasPrefix(e.out, "https://")
}

func (e *logExport) run(cmd *cobra.Command) (err error) {
	if err := e.validate(); err != nil {
		return err
	}
	c, err := config.LoadNode(e.config)
	if err != nil {
		return err
	}
	log, err := appliance.OpenAuditFile(cmd.Context(), c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	out, err := e.sink(cmd, log)
	if err != nil {
		return err
	}
	if e.format == "slice" {
		err = e.slice(cmd, log, out)
	} else {
		err = e.stream(cmd.Context(), log, out)
	}
	return errors.Join(err, out.close())
}

func (e *logExport) slice(cmd *cobra.Command, log *appliance.AuditFile, out sink) error {
	rg := auditlog.Range{From: uint64(max(e.from, 0)), End: uint64(e.to + 1), Private: e.salts}
	head, err := log.Slice(out.(*lines), rg)
	if err == nil {
		progress(cmd, "records %d to %d", head.From, head.To)
	}
	return err
}

// stream hands records to a sink, and keeps the cursor behind what the sink has taken.
func (e *logExport) stream(ctx context.Context, log *appliance.AuditFile, out sink) (err error) {
	from, err := e.begin()
	if err != nil {
		return err
	}
	r, err := log.Read(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	next := from
	for {
		s, err := r.Next()
		if err == nil && (e.to < 0 || s.Number <= uint64(e.to)) {
			if err := e.hand(ctx, s, out); err != nil {
				return err
			}
			next = s.Number + 1
			if !out.full() {
				continue
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if flushed := out.flush(ctx); flushed != nil {
			return flushed
		}
		if err := e.keep(next); err != nil {
			return err
		}
		switch {
		case err == nil && s.Number < uint64(max(e.to, 0)), err == nil && e.to < 0:
			continue
		case !e.follow:
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

func (e *logExport) hand(ctx context.Context, s *auditlog.Stored, out sink) error {
	if e.format == "records" {
		return out.take(ctx, s.Line)
	}
	r, err := auditlog.ParseRecord(s.Line)
	if err != nil || r.Kind() != auditlog.Decision {
		return err
	}
	return out.take(ctx, r.Decision)
}

// begin is the first record to export.
func (e *logExport) begin() (uint64, error) {
	if e.cursor == "" {
		return uint64(max(e.from, 0)), nil
	}
	b, err := os.ReadFile(e.cursor)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("--cursor %s does not hold a record's number: remove it to begin anew", e.cursor)
	}
	return n, nil
}

func (e *logExport) keep(next uint64) error {
	if e.cursor == "" {
		return nil
	}
	return translog.WriteFile(e.cursor, fmt.Appendln(nil, next))
}

// sink is where an export goes.
type sink interface {
	take(ctx context.Context, line []byte) error
	full() bool // it should be flushed
	flush(ctx context.Context) error
	close() error
}

func (e *logExport) sink(cmd *cobra.Command, log *appliance.AuditFile) (sink, error) {
	if e.http() {
		u := &upload{url: e.out, log: func(format string, args ...any) { progress(cmd, format, args...) }}
		if e.bearer != "" {
			b, err := os.ReadFile(e.bearer)
			if err != nil {
				return nil, fmt.Errorf("--bearer-file: %w", err)
			}
			u.bearer = strings.TrimSpace(string(b))
		}
		u.client = &http.Client{Timeout: uploadTimeout, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, Proxy: http.ProxyFromEnvironment,
		}}
		return u, nil
	}
	if e.out == "-" {
		return &lines{Writer: bufio.NewWriter(cmd.OutOrStdout()), end: func() error { return nil }}, nil
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if e.cursor != "" {
		flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	f, err := os.OpenFile(e.out, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--out: %w", err)
	}
	return &lines{Writer: bufio.NewWriterSize(f, 1<<18), sync: f.Sync, end: f.Close}, nil
}

// lines is a file or standard output.
type lines struct {
	*bufio.Writer
	sync, end func() error
}

func (l *lines) take(_ context.Context, line []byte) error {
	_, err := l.Write(append(line, '\n'))
	return err
}

func (l *lines) full() bool { return false }

func (l *lines) flush(context.Context) error {
	if err := l.Flush(); err != nil || l.sync == nil {
		return err
	}
	return l.sync()
}

func (l *lines) close() error { return errors.Join(l.flush(context.Background()), l.end()) }

// Bounds of an upload.
const (
	uploadEvents  = 500
	uploadBytes   = 4 << 20 // before compression
	uploadTimeout = 30 * time.Second
	uploadRetry   = 5 * time.Second
	uploadTries   = 12
)

// upload posts events as Open Policy Agent's decision logs are uploaded.
type upload struct {
	url, bearer string
	client      *http.Client
	log         func(format string, args ...any)
	retry       time.Duration // between tries; 0: uploadRetry

	events []json.RawMessage
	bytes  int
}

func (u *upload) take(_ context.Context, event []byte) error {
	u.events, u.bytes = append(u.events, event), u.bytes+len(event)
	return nil
}

func (u *upload) full() bool { return len(u.events) >= uploadEvents || u.bytes >= uploadBytes }

func (u *upload) flush(ctx context.Context) error {
	if len(u.events) == 0 {
		return nil
	}
	array, err := json.Marshal(u.events)
	if err != nil {
		return err
	}
	var body bytes.Buffer
	z := gzip.NewWriter(&body)
	_, err = z.Write(array)
	if err := errors.Join(err, z.Close()); err != nil {
		return err
	}
	retry := u.retry
	if retry == 0 {
		retry = uploadRetry
	}
	for try := 1; ; try++ {
		err := u.post(ctx, body.Bytes())
		if err == nil {
			u.events, u.bytes = nil, 0
			return nil
		}
		if try == uploadTries || ctx.Err() != nil {
			return fmt.Errorf("--out: %w", err)
		}
		u.log("%v: trying again in %s", err, retry)
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

func (u *upload) post(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	if u.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+u.bearer)
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return errors.Join(fmt.Errorf("the service answers %s", resp.Status), resp.Body.Close())
	}
	return errors.Join(err, resp.Body.Close())
}

func (u *upload) close() error { return nil }
