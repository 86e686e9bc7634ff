package worker

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// keepCrash makes the runtime write its last words to our first log, too,
// memory of a fixed size that the supervisor reads when we are gone. It returns
// the descriptor, by which a later supervisor finds it; 0: there is none.
func keepCrash() int {
	fd, err := unix.FcntlInt(os.Stderr.Fd(), unix.F_DUPFD_CLOEXEC, 10)
	if err != nil {
		return 0
	}
	if debug.SetCrashOutput(os.Stderr, debug.CrashOptions{}) != nil { // it makes a duplicate of its own
		unix.Close(fd)
		return 0
	}
	debug.SetTraceback("all") // what the other loops did, too; it makes no core
	return fd                 // bare: an os.File would close it when it is collected
}

// lastLog opens the first log of an adopted worker; nil: it cannot be had.
func lastLog(pid, fd int) *os.File {
	if fd <= 0 {
		return nil
	}
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/fd/" + strconv.Itoa(fd))
	if err != nil {
		return nil
	}
	if st, err := f.Stat(); err != nil || st.Size() != earlySize {
		f.Close()
		return nil
	}
	return f
}

// keepFlight makes the recorder: memory of a fixed size that lives as long as
// somebody has it open. It returns the descriptor, by which supervisors find it.
func keepFlight(threads int) ([]byte, int) {
	size := l7.FlightSize(threads)
	fd, err := unix.MemfdCreate("lbd-worker-flight", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, 0
	}
	err = unix.Ftruncate(fd, int64(size))
	if err == nil {
		// A reader must never meet the end of a file that shrank.
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	}
	var memory []byte
	if err == nil {
		memory, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		unix.Close(fd)
		return nil, 0
	}
	return memory, fd
}

// openFlight maps a worker's recorder; nil: it cannot be had.
func openFlight(pid, fd, threads int) []byte {
	if fd <= 0 || threads < 1 || threads > 4096 {
		return nil
	}
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/fd/" + strconv.Itoa(fd))
	if err != nil {
		return nil
	}
	defer f.Close()
	size := l7.FlightSize(threads)
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if st, bad := f.Stat(); err != nil || bad != nil || seals&unix.F_SEAL_SHRINK == 0 || st.Size() != int64(size) {
		return nil
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil
	}
	return memory
}

func (m *member) closeFlight() {
	if m.flight != nil {
		_ = unix.Munmap(m.flight)
		m.flight = nil
	}
}

// lastWords is what the runtime said of a crash; "": nothing. Read it after the
// end.
func (m *member) lastWords() string {
	first := -1
	for _, begin := range []string{"panic: ", "fatal error: ", "SIGABRT: ", "SIGQUIT: ", "SIGSEGV: ", "SIGBUS: ", "unexpected fault address "} {
		if at := strings.Index(m.last, begin); at >= 0 && (first < 0 || at < first) {
			first = at
		}
	}
	if first < 0 {
		return ""
	}
	return m.last[first:]
}

// Reports of crashes in the run directory: the newest few.
const (
	crashFiles  = "crash-*.json"
	keptCrashes = 16
)

// report keeps what is known of a worker that ended by itself, though nothing of
// the process is left, and returns the line to show. It needs no core file.
func (f *Fleet) report(m *member) string {
	f.mu.Lock()
	flight := l7.ReadFlight(m.flight)
	f.mu.Unlock()
	c := lb.Crash{Time: time.Now().UTC(), Worker: m.name(), PID: m.pid, Version: m.version, Started: m.started.UTC(), How: m.exit,
		Said: m.lastWords(), Flight: flight}
	text, err := json.MarshalIndent(c, "", "  ")
	path := filepath.Join(f.options.RunDir, fmt.Sprintf("crash-%d-%d.json", c.Time.UnixMilli(), m.pid))
	if err == nil {
		err = renameio.WriteFile(path, text, 0o600, renameio.WithTempDir(f.options.RunDir))
	}
	if err != nil {
		f.options.Log.Warn("keep a worker's crash report", "err", err)
		return m.exit
	}
	if all := f.crashReports(); len(all) > keptCrashes {
		for _, old := range all[keptCrashes:] {
			_ = os.Remove(old)
		}
	}
	line, _, _ := strings.Cut(c.Said, "\n")
	if line != "" {
		line = ": " + line[:min(len(line), 200)]
	}
	return m.exit + line + " (" + path + ")"
}

// crashReports lists the reports' files, newest first.
func (f *Fleet) crashReports() []string {
	all, _ := filepath.Glob(filepath.Join(f.options.RunDir, crashFiles))
	slices.Sort(all)
	slices.Reverse(all)
	return all
}

// Crashes are the last workers that ended by themselves, newest first, those of
// earlier supervisors too.
func (f *Fleet) Crashes() []lb.Crash {
	var out []lb.Crash
	for _, path := range f.crashReports() {
		var c lb.Crash
		text, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(text, &c) == nil {
			out = append(out, c)
		}
	}
	return out
}
