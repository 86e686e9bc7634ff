package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"
)

// Bounds of the servers.
const (
	connections  = 128
	headTime     = 5 * time.Second
	readTime     = 30 * time.Second
	idleTime     = time.Minute
	maxHead      = 16 << 10
	shutdownTime = 2 * time.Second
	dialTime     = time.Second
)

// Group may use the admin socket, when it exists.
const Group = "lbd-admin"

// Listen opens the admin socket: mode 0660, for the group lbd-admin when there
// is one. It appears with its rights set, by a rename, and replaces a socket
// that nobody serves; one that answers is an error.
func Listen(path string) (net.Listener, error) { return listen(path, grant) }

// ListenReadOnly opens the socket for every user of the host.
func ListenReadOnly(path string) (net.Listener, error) {
	return listen(path, func(path string) error { return os.Chmod(path, 0o666) })
}

func listen(path string, grant func(string) error) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, dialTime); err == nil {
		c.Close()
		return nil, fmt.Errorf("listen on %s: another lbd serves it; stop it, or give this one its own admin.socket", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if i, err := os.Lstat(path); err == nil && i.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("listen on %s: a %s that is no socket is there", path, kind(i))
	}
	fresh := path + ".new"
	os.Remove(fresh) // left by a start that was killed; when it cannot go, listening says so
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the name may be a successor's by then
	if err := errors.Join(grant(fresh), os.Rename(fresh, path)); err != nil {
		l.Close()
		os.Remove(fresh)
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func kind(i fs.FileInfo) string {
	if i.IsDir() {
		return "directory"
	}
	return "file"
}

// grant gives the socket its group and mode.
func grant(path string) error {
	if g, err := user.LookupGroup(Group); err == nil {
		if id, err := strconv.Atoi(g.Gid); err == nil {
			// Without root only a member may give it away; then the owner's
			// group stays.
			if err := os.Chown(path, -1, id); err != nil && os.Geteuid() == 0 {
				return err
			}
		}
	}
	return os.Chmod(path, 0o660)
}

// Serve answers on the admin socket until ctx ends.
func Serve(ctx context.Context, l net.Listener, c Control, o Options) error {
	return serve(ctx, l, &http.Server{Handler: Handler(c, o), ConnContext: withPeer}, o.Log)
}

// ServeReadOnly answers on admin.read_only_socket until ctx ends.
func ServeReadOnly(ctx context.Context, l net.Listener, c Control, o Options) error {
	return serve(ctx, l, &http.Server{Handler: ReadOnlyHandler(c, o)}, o.Log)
}

// ServeHTTP answers on admin.http until ctx ends.
func ServeHTTP(ctx context.Context, l net.Listener, c Control) error {
	return serve(ctx, l, &http.Server{Handler: ReadOnly(c), WriteTimeout: readTime}, nil)
}

func serve(ctx context.Context, l net.Listener, s *http.Server, log *slog.Logger) error {
	if log == nil {
		log = slog.Default()
	}
	s.ReadHeaderTimeout, s.ReadTimeout, s.IdleTimeout, s.MaxHeaderBytes = headTime, readTime, idleTime, maxHead
	s.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	s.BaseContext = func(net.Listener) context.Context { return ctx } // ends event streams
	bounded := limited{l, make(chan struct{}, connections)}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		l.Close()
		s.SetKeepAlivesEnabled(false)
		bounded.empty(shutdownTime) // Shutdown would drop a request that is just being read
		s.Close()
	})
	err := s.Serve(bounded)
	if !stop() {
		<-done
		return nil
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
