package worker

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
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
	return fd // bare: an os.File would close it when it is collected
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

// report keeps what a worker that served said when it crashed, one file for
// each place in a crew, and returns the line to show.
func (f *Fleet) report(m *member) string {
	at := max(strings.Index(m.last, "panic: "), strings.Index(m.last, "fatal error: "), strings.Index(m.last, "SIGABRT: "), strings.Index(m.last, "SIGQUIT: "))
	if at < 0 {
		return m.exit
	}
	text := m.last[at:]
	path := filepath.Join(f.options.RunDir, "crash-"+strconv.Itoa(m.index)+".txt")
	head := "worker " + m.name() + ", lbd " + m.version + ", " + m.exit + "\n\n"
	if err := renameio.WriteFile(path, []byte(head+text), 0o600, renameio.WithTempDir(f.options.RunDir)); err != nil {
		f.options.Log.Warn("keep a worker's crash report", "err", err)
	}
	line, _, _ := strings.Cut(text, "\n")
	return m.exit + ": " + line[:min(len(line), 200)] + " (" + path + ")"
}
