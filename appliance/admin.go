package appliance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"strongroom/ledger"
)

// A running peer takes orders of its own operator on a Unix socket in its data folder:
// adminDir has mode 0700, so that only the user that the peer runs as, who can read and write all
// of the data folder anyway, and root reach it. It speaks HTTP:
//
//	POST /backup {"target": "/absolute/path"}
//	GET  /stats?channel=NAME
//
// The answer is lines of JSON, adminLine each: progress, and at the end a result or an error.
const (
	adminDir    = "admin"
	adminSocket = "socket"
)

// ErrNotRunning means that no peer runs on the data folder.
var ErrNotRunning = errors.New("no peer runs on this data folder")

type adminLine struct {
	Progress string          `json:"progress,omitempty"`
	Error    string          `json:"error,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
}

type backupOrder struct {
	Target string `json:"target"`
}

// inFolder gives a folder a short name for as long as f is open: the path of a Unix
// socket has at most 107 bytes.
func inFolder(f *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), name)
}

// serveAdmin takes orders until ctx ends; the result waits for those that are under way.
func (p *peer) serveAdmin(ctx context.Context) (wait func() error, err error) {
	dir, err := makeDir(p.config.Data, adminDir)
	if err != nil {
		return nil, err
	}
	// A folder that was there may be open to others.
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	folder, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	defer folder.Close()
	// The keyring's lock is held: what is there is left by a peer that is gone.
	if err := os.Remove(filepath.Join(dir, adminSocket)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", inFolder(folder, adminSocket))
	if err != nil {
		return nil, fmt.Errorf("data: %s: %w", filepath.Join(dir, adminSocket), err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // its name ends with this function
	mux := http.NewServeMux()
	mux.HandleFunc("POST /backup", func(w http.ResponseWriter, r *http.Request) {
		var order backupOrder
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&order)
		answer(w, func(say func(string, ...any)) (any, error) {
			if err != nil {
				return nil, fmt.Errorf("order is not readable: %w", err)
			}
			return p.backup(r.Context(), order.Target, say)
		})
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) {
		answer(w, func(func(string, ...any)) (any, error) { return p.stats(r.Context(), r.URL.Query().Get("channel")) })
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return func() error {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err := server.Shutdown(stop)
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
		return errors.Join(err, os.Remove(filepath.Join(dir, adminSocket)))
	}, nil
}

// answer writes the lines of one order.
func answer(w http.ResponseWriter, do func(say func(string, ...any)) (any, error)) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	line := func(l adminLine) {
		// An operator who went away does not end what was ordered.
		_ = enc.Encode(l)
		_ = flush.Flush()
	}
	result, err := do(func(format string, args ...any) { line(adminLine{Progress: fmt.Sprintf(format, args...)}) })
	var raw []byte
	if err == nil {
		raw, err = json.Marshal(result)
	}
	if err != nil {
		line(adminLine{Error: err.Error()})
		return
	}
	line(adminLine{Result: raw})
}

// stats counts what a channel of the running peer holds.
func (p *peer) stats(ctx context.Context, channel string) (*ledger.Stats, error) {
	j, ok := p.channels.get(channel)
	if !ok {
		return nil, fmt.Errorf("the peer has no channel %q: correct the name", channel)
	}
	return j.ledger.Stats(ctx, map[string]string{"provenance": filepath.Join(p.channels.dir, channel, "provenance")})
}

// RunningStats is LedgerStats of the peer that runs on a data folder; ErrNotRunning when
// none does.
func RunningStats(ctx context.Context, data, channel string) (*ledger.Stats, error) {
	s := &ledger.Stats{}
	return s, order(ctx, data, http.MethodGet, "/stats?channel="+url.QueryEscape(channel), nil, nil, s)
}

// BackupRunning has the peer that runs on a data folder make a backup. Say is told how far
// it is. The error wraps ErrNotRunning when no peer does.
func BackupRunning(ctx context.Context, data, target string, say func(string)) (*Backup, error) {
	target, err := filepath.Abs(target)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(backupOrder{Target: target})
	if err != nil {
		return nil, err
	}
	b := &Backup{}
	return b, order(ctx, data, http.MethodPost, "/backup", body, say, b)
}

// order sends an order and reads the answer into result.
func order(ctx context.Context, data, method, path string, body []byte, say func(string), result any) error {
	folder, err := os.Open(filepath.Join(data, adminDir))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	defer folder.Close()
	var dialer net.Dialer
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, "unix", inFolder(folder, adminSocket))
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrNotRunning, err)
		}
		return conn, err
	}}}
	request, err := http.NewRequestWithContext(ctx, method, "http://peer"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the peer answers %s", response.Status)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var l adminLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return fmt.Errorf("the peer's answer: %w", err)
		}
		switch {
		case l.Error != "":
			return errors.New(l.Error)
		case l.Result != nil:
			return json.Unmarshal(l.Result, result)
		case say != nil:
			say(l.Progress)
		}
	}
	return errors.Join(lines.Err(), errors.New("the peer's answer ended before the result: look into its log"))
}
