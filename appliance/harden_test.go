package appliance

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"testing"
)

// TestHarden looks at a process of another user from outside: the kernel gives the
// /proc files of an undumpable process to root (proc(5)).
func TestHarden(t *testing.T) {
	if mode := os.Getenv("STRONGROOM_TEST_HARDEN"); mode != "" {
		if mode == "yes" {
			if err := harden(); err != nil {
				fmt.Println(err)
				return
			}
		}
		fmt.Println("ready")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		return
	}
	for _, c := range []struct {
		mode            string
		owned, coreless bool
	}{{"no", true, false}, {"yes", false, true}} {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestHarden$")
		cmd.Env = append(os.Environ(), "STRONGROOM_TEST_HARDEN="+c.mode)
		user := uint32(os.Getuid())
		if user == 0 {
			user = 65534
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
		}
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil || line != "ready\n" {
			t.Fatalf("the process says %q, %v", line, err)
		}
		proc := fmt.Sprintf("/proc/%d/", cmd.Process.Pid)
		var stat syscall.Stat_t
		if err := syscall.Stat(proc+"mem", &stat); err != nil {
			t.Fatal(err)
		}
		if owned := stat.Uid == user; owned != c.owned {
			t.Errorf("hardened %s: its memory belongs to user %d, it runs as %d", c.mode, stat.Uid, user)
		}
		limits, err := os.ReadFile(proc + "limits")
		if err != nil {
			t.Fatal(err)
		}
		if coreless := regexp.MustCompile(`(?m)^Max core file size +0 +0 +bytes`).Match(limits); c.coreless && !coreless {
			t.Errorf("hardened, it may dump core:\n%s", limits)
		}
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}
