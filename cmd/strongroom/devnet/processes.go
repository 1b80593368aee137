package devnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 20 * time.Second
	pollInterval = 50 * time.Millisecond
)

// run executes one of the binary's commands and returns what it printed.
func (n *Network) run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, n.cfg.Binary, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("strongroom %s: %w\n%s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// Running tells whether the process is alive.
func (p *Process) Running() bool {
	return p.PID > 0 && syscall.Kill(p.PID, 0) == nil && !zombie(p.PID)
}

// zombie tells a process that has ended and whose parent has not asked yet.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, ok := strings.Cut(string(stat), ") ")
	return ok && strings.HasPrefix(after, "Z")
}

// start launches a process apart from this one, unless it runs, and waits until it
// serves.
func (n *Network) start(ctx context.Context, p *Process) error {
	ended := make(chan error, 1)
	if !p.Running() {
		cmd, err := n.launch(p)
		if err != nil {
			return err
		}
		go func() { ended <- cmd.Wait() }()
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := p.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case waitErr := <-ended:
			return fmt.Errorf("%s ended while starting (%v): see %s\n%s", p.Name, waitErr, p.Log, tail(p.Log))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s (%w): see %s\n%s", p.Name, startTimeout, err, p.Log, tail(p.Log))
		case <-time.After(pollInterval):
		}
	}
}

func (n *Network) launch(p *Process) (*exec.Cmd, error) {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Dir = n.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.PID = cmd.Process.Pid
	return cmd, nil
}

// Ready reports why the process does not serve yet, or nil.
func (p *Process) Ready(ctx context.Context) error {
	if p.Health == "" {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", p.Dial)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Health, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return fmt.Errorf("%s: %s", response.Status, body)
	}
	return nil
}

// startAll starts what does not run. The description is saved as soon as a process
// has a number, so that `dev down` finds all of them.
func (n *Network) startAll(ctx context.Context) error {
	for _, p := range n.Processes {
		if !p.Running() {
			n.say("starting %s", p.Name)
		}
		err := n.start(ctx, p)
		if err := errors.Join(err, n.save()); err != nil {
			return err
		}
	}
	return nil
}

// Down stops every process of the network; the data stays.
func (n *Network) Down(ctx context.Context) error {
	var errs []error
	for i := len(n.Processes) - 1; i >= 0; i-- {
		errs = append(errs, n.Processes[i].stop(ctx))
	}
	return errors.Join(append(errs, n.save())...)
}

func (p *Process) stop(ctx context.Context) error {
	if !p.Running() {
		p.PID = 0
		return nil
	}
	if err := syscall.Kill(p.PID, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	for p.Running() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s (process %d) does not stop: see %s", p.Name, p.PID, p.Log)
		case <-time.After(pollInterval):
		}
	}
	p.PID = 0
	return nil
}

// Find returns the process of a name.
func (n *Network) Find(name string) (*Process, error) {
	for _, p := range n.Processes {
		if p.Name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("the network has no process %q", name)
}

// tail is the end of a log, for an error.
func tail(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}
