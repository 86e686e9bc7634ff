package app

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// failWhen names a file: once it is there, no fsync of this process succeeds
// any more.
const failWhen = "LBD_TEST_EIO_WHEN"

// failSyncs waits for the file of failWhen, then has the kernel answer every
// fsync of every thread with EIO.
func failSyncs() {
	file := os.Getenv(failWhen)
	if file == "" {
		return
	}
	refuse := func() {
		program := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the system call's number
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FSYNC, Jf: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: 0x50000 | uint32(unix.EIO)}, // SECCOMP_RET_ERRNO
			{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fff0000},                 // SECCOMP_RET_ALLOW
		}
		filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
		const setModeFilter, onAllThreads = 1, 1
		_, _, failed := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, onAllThreads, uintptr(unsafe.Pointer(&filter)))
		runtime.KeepAlive(program)
		if failed != 0 {
			panic(failed)
		}
	}
	there := func() bool { _, err := os.Stat(file); return err == nil }
	if there() {
		refuse()
		return
	}
	go func() {
		for !there() {
			time.Sleep(10 * time.Millisecond)
		}
		refuse()
		os.Rename(file, file+".done")
	}()
}

// disk is a data_dir of its own file system, in a mount namespace that ends
// with the test.
type disk struct {
	t    *testing.T
	tell io.Writer
	hear *bufio.Reader
}

// newDisk mounts a small file system at the site's data_dir; who is started from
// then on finds it there.
func newDisk(t *testing.T, s *site) *disk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a file system")
	}
	data := filepath.Join(s.dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	shell := exec.Command("sh")
	shell.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	shell.Stderr = os.Stderr
	in, err := shell.StdinPipe()
	out, err2 := shell.StdoutPipe()
	if err := errors.Join(err, err2, shell.Start()); err != nil {
		t.Skipf("a mount namespace: %v", err)
	}
	t.Cleanup(func() { in.Close(); shell.Wait() })
	d := &disk{t, in, bufio.NewReader(out)}
	s.enter = []string{"nsenter", "-m", "-t", fmt.Sprint(shell.Process.Pid), "--"}
	d.do("mount -t tmpfs -o size=2m,mode=0700 lbd " + data)
	return d
}

// do runs a command where the file system is.
func (d *disk) do(command string) {
	d.t.Helper()
	fmt.Fprintf(d.tell, "%s; echo $?\n", command)
	line, err := d.hear.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "0" {
		d.t.Fatalf("%s: %q, %v", command, line, err)
	}
}

// A disk that takes nothing any more, for whichever reason, has every change
// refused with the reason; what runs goes on, over a restart, too; and when the
// disk is well, so is everything.
func TestADiskThatTakesNothingLeavesWhatRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	for _, c := range []struct {
		name, says string
		prepare    func(*testing.T, *site) (spoil, mend func())
		spent      bool // who had the trouble has it until it ends
	}{
		{"full", "no space left on device", func(t *testing.T, s *site) (func(), func()) {
			d, data := newDisk(t, s), filepath.Join(s.dir, "data")
			return func() { d.do("dd if=/dev/zero of=" + data + "/much bs=64k 2>/dev/null || true") }, func() { d.do("rm " + data + "/much") }
		}, false},
		{"read-only", "read-only file system", func(t *testing.T, s *site) (func(), func()) {
			d, data := newDisk(t, s), filepath.Join(s.dir, "data")
			// Files that are open for writing keep it from being remounted, not from
			// being covered.
			return func() { d.do("mount --bind " + data + " " + data + " && mount -o remount,bind,ro " + data) }, func() { d.do("umount " + data) }
		}, false},
		{"not ours", "permission denied", func(t *testing.T, s *site) (func(), func()) {
			data := filepath.Join(s.dir, "data")
			if os.Getuid() == 0 { // whom no mode keeps out
				s.belongsTo(65534)
			}
			chmod := func(mode os.FileMode) func() {
				return func() {
					if err := errors.Join(os.Chmod(data, mode), os.Chmod(filepath.Join(data, "generations"), mode)); err != nil {
						t.Error(err)
					}
				}
			}
			return chmod(0o500), chmod(0o700)
		}, false},
		{"broken", "input/output error", func(t *testing.T, s *site) (func(), func()) {
			spoilt := filepath.Join(s.dir, "spoilt")
			s.environment = []string{failWhen + "=" + spoilt}
			return func() {
				if err := os.WriteFile(spoilt, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				s.until("it fails", func() bool { _, err := os.Stat(spoilt + ".done"); return err == nil })
			}, func() { s.environment = nil }
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			spoil, mend := c.prepare(t, s)
			l := &ledger{site: s}
			if err := os.WriteFile(s.file(), []byte(l.alone()+l.objects(0)), 0o644); err != nil {
				t.Fatal(err)
			}
			daemon := s.start()
			for _, err := range []error{s.order("POST", "/v1/config/adopt", ""), s.order("PUT", "/v1/config", l.objects(1)), s.order("POST", "/v1/backends/order", l.drain(0, true))} {
				if err != nil {
					t.Fatal(err)
				}
			}
			same := func(when string) {
				t.Helper()
				if document, drained, err := l.found(); document != 1 || !drained || err != nil {
					t.Errorf("%s: document %d, drained %v, %v; want 1 and true", when, document, drained, err)
				}
			}
			same("before")
			traffic := s.load(2)
			generations := s.history()
			spoil()
			for _, change := range []struct{ method, path, body string }{
				{"PUT", "/v1/config", l.objects(2)},
				{"POST", "/v1/config/rollback", `{"generation":"2@test"}`},
				{"POST", "/v1/config/release", `{"discard":true}`},
				{"POST", "/v1/backends/order", l.drain(0, false)},
				{"POST", "/v1/backends/order", l.drain(1, true)},
				{"POST", "/v1/nodes/order", `{"drain":true}`},
			} {
				err := s.order(change.method, change.path, change.body)
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s %s: got %v, want it refused with %q", change.method, change.path, err, c.says)
				}
			}
			same("while it takes nothing")
			if got := s.history(); got != generations {
				t.Errorf("the history is\n%s\nit was\n%s", got, generations)
			}
			if p := s.problems(); !strings.Contains(p, "data_dir: changes and orders are refused") || !strings.Contains(p, c.says) {
				t.Errorf("problems:\n%s", p)
			}
			if !c.spent {
				daemon = s.restart(daemon)
				same("after a restart on such a disk")
			}
			mend()
			if c.spent {
				daemon = s.restart(daemon)
				same("after a restart")
			}
			s.until("it is found to be well", func() bool { return !strings.Contains(s.problems(), c.says) })
			if err := s.order("PUT", "/v1/config", l.objects(2)); err != nil {
				t.Error(err)
			}
			s.restart(daemon)
			if document, drained, err := l.found(); document != 2 || !drained || err != nil {
				t.Errorf("at last: document %d, drained %v, %v", document, drained, err)
			}
			traffic.endUnfailed(t)
		})
	}
}

// belongsTo makes somebody else run lbd, who must reach the program and own the
// directory.
func (s *site) belongsTo(uid int) {
	s.t.Helper()
	own, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	program, err := os.ReadFile(own)
	s.uid, s.binary = uint32(uid), filepath.Join(s.dir, "lbd")
	if err := errors.Join(err, os.WriteFile(s.binary, program, 0o755), os.Chmod(s.dir, 0o755), os.Chown(s.dir, uid, uid)); err != nil {
		s.t.Fatal(err)
	}
}

// alone are the settings of a node without a cluster.
func (l *ledger) alone() string {
	return fmt.Sprintf(`
node: { name: test, run_dir: %[1]s/run, data_dir: %[1]s/data }
workers: { processes: 2, threads: 1 }
fastpath: { mode: "off" }
log: { access: "off" }
admin: { http: "" }
`, l.site.dir)
}

func (l *ledger) drain(backend int, drain bool) string {
	return fmt.Sprintf(`{"id":"app/%s","drain":%v}`, l.site.pool[backend], drain)
}

// history is all generations, in one text.
func (s *site) history() string {
	s.t.Helper()
	r, err := s.admin().Get("http://lbd/v1/config/history")
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		s.t.Fatal(r.Status, err)
	}
	return string(text)
}
