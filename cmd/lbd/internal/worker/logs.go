package worker

import (
	"errors"
	"fmt"
	"os"
)

// openAccess opens what the configuration calls the access log, unless it is
// open. Workers get its descriptor: they open no path. undo goes back to the
// one before.
func (f *Fleet) openAccess(name string) (undo func(), err error) {
	f.mu.Lock()
	before, was := f.access, f.accessName
	f.mu.Unlock()
	if before != nil && was == name {
		return func() {}, nil
	}
	file, err := f.accessFile(name)
	if err != nil {
		return nil, err
	}
	set := func(file *os.File, name string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.access, f.accessName = file, name
	}
	set(file, name)
	return func() {
		set(before, was)
		f.closeLog(file)
	}, nil
}

// closeLog closes a log that is not somebody else's.
func (f *Fleet) closeLog(file *os.File) {
	if file != nil && file != f.options.Stdout {
		file.Close()
	}
}

func (f *Fleet) accessFile(name string) (*os.File, error) {
	switch name {
	case "off", "":
		return nil, nil
	case "stdout":
		return f.options.Stdout, nil
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("log.access: %w", err)
	}
	return file, nil
}

// ReopenLogs opens the access log's file anew, after logrotate has moved it,
// and hands it to the workers.
func (f *Fleet) ReopenLogs() error {
	f.mu.Lock()
	name, old := f.accessName, f.access
	f.mu.Unlock()
	file, err := f.accessFile(name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.access = file
	f.mu.Unlock()
	err = f.sendLogs()
	if old != file {
		f.closeLog(old)
	}
	return err
}

// sendLogs gives all workers the logs as they are now. Whether there is an
// access log at all is settled when a worker starts: one that has none saves
// the work.
func (f *Fleet) sendLogs() error {
	f.mu.Lock()
	access := f.access
	f.mu.Unlock()
	if access == nil {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer null.Close()
		access = null
	}
	var errs []error
	late := ""
	for _, m := range f.everybody() {
		fds := []int{int(f.stderr.Fd())}
		if m.access {
			fds = append(fds, int(access.Fd()))
		} else if access.Name() != os.DevNull {
			late = "log.access takes effect with lbctl upgrade: the workers that run were started without one"
		}
		if _, err := m.conn.quick(f.ctx, opLogs, logsRequest{Access: m.access}, fds, nil); err != nil {
			errs = append(errs, fmt.Errorf("worker %s: %w", m.name(), err))
		}
	}
	f.note("access", late)
	return errors.Join(errs...)
}
