package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strings"
	"syscall"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// patient is what the doctor looks at: a host, what a configuration asks of
// it, and the daemon when one runs.
type patient struct {
	root       string     // before /proc and /sys: "" but in tests
	config     *lb.Config // nil: none, or none that can be read
	interfaces []string
	daemon     *admin.Status // nil: none answers
}

func (c *ctl) examine(cmd *cobra.Command, file string, interfaces []string) []finding {
	p := &patient{interfaces: interfaces}
	found := []finding{p.readConfig(file, cmd.Flags().Changed("config"))}
	if p.config != nil && p.interfaces == nil {
		p.interfaces = p.config.Fastpath.Interfaces
	}
	found = append(found, c.callDaemon(cmd, p))
	found = append(found, p.kernel(), p.btf(), p.bpffs(), p.capabilities())
	for _, name := range p.interfaces {
		found = append(found, p.link(name)...)
		found = append(found, p.offloads(name)...)
	}
	found = append(found, p.reversePath()...)
	found = append(found, p.backlog(), p.files(), p.clock(), p.user())
	return append(found, p.ports()...)
}

func ok(check, found string) finding { return finding{Check: check, Result: "ok", Found: found} }

func warn(check, found, fix string) finding {
	return finding{Check: check, Result: "warn", Found: found, Fix: fix}
}

func bad(check, found, fix string) finding {
	return finding{Check: check, Result: "fail", Found: found, Fix: fix}
}

// lacking is a privilege or kernel feature that is not there: a failure when
// the configuration requires the fast path, else a warning.
func (p *patient) lacking(check, found, fix string) finding {
	if p.config != nil && p.config.Fastpath.Required {
		return finding{Check: check, Result: "fail", Found: found, Fix: fix, lacks: true}
	}
	return warn(check, found+"; lbd works without, slower", fix)
}

func (p *patient) readConfig(file string, asked bool) finding {
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrNotExist) && !asked:
		return warn("config", "there is no "+file, "name yours: lbctl doctor -c FILE")
	case err != nil:
		return bad("config", err.Error(), "name yours: lbctl doctor -c FILE")
	}
	if p.config, err = lb.Parse(text, lb.Options{File: file}); err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return bad("config", first, "lbd validate -c "+file)
	}
	return ok("config", file+" is valid")
}

func (c *ctl) callDaemon(cmd *cobra.Command, p *patient) finding {
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	s, err := c.client().Status(ctx)
	switch {
	case errors.Is(err, os.ErrPermission):
		return warn("daemon", err.Error(), "run it as root, or: usermod -aG "+admin.Group+" $USER")
	case err != nil:
		return warn("daemon", "none answers at "+c.socket(), "systemctl start lbd")
	}
	p.daemon = &s
	found := fmt.Sprintf("%s %s, generation %s, fast path %s", s.Node, s.State, s.Generation, s.Fastpath.Mode)
	if s.Degraded() {
		return warn("daemon", found+", "+plural(len(s.Problems), "problem"), "lbctl status")
	}
	return ok("daemon", found)
}

// files looks at the limit that a connection and its backend's share.
func (p *patient) files() finding {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return warn("open files", err.Error(), "")
	}
	need := uint64(1024)
	if p.config != nil {
		need = uint64(2*p.config.Limits.Connections + 1024)
	}
	if l.Max < need {
		return warn("open files", fmt.Sprintf("at most %d here, limits.connections may need %d", l.Max, need),
			fmt.Sprintf("systemctl edit lbd: LimitNOFILE=%d (or ulimit -Hn %d)", need, need))
	}
	return ok("open files", fmt.Sprintf("at most %d", l.Max))
}

// clock looks whether the kernel believes its clock is right: certificates and
// logs need it, agreement between nodes does not.
func (p *patient) clock() finding {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return warn("clock", err.Error(), "")
	}
	if state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		return warn("clock", "not synchronised", "timedatectl set-ntp true")
	}
	return ok("clock", "synchronised")
}

func (p *patient) user() finding {
	name := "lbd"
	if p.config != nil && p.config.Workers.User != "" {
		name = p.config.Workers.User
	}
	if os.Geteuid() != 0 {
		return ok("worker user", "without root workers run as you")
	}
	if _, err := user.Lookup(name); err != nil {
		return warn("worker user", "no user "+name+"; workers run as uid 65534", "useradd --system --shell /usr/sbin/nologin "+name)
	}
	return ok("worker user", name)
}

// ports tries every bind of the configuration, unless the daemon has it.
func (p *patient) ports() []finding {
	if p.config == nil {
		return nil
	}
	var found []finding
	for _, l := range p.config.Listeners {
		check := "port " + l.Bind.String()
		if p.served(l) {
			found = append(found, ok(check, "served by lbd"))
			continue
		}
		found = append(found, tryBind(check, l))
	}
	return found
}

func (p *patient) served(l *lb.Listener) bool {
	if p.daemon == nil {
		return false
	}
	for _, s := range p.daemon.Listeners {
		if s.Bind == l.Bind.String() {
			return true
		}
	}
	return false
}

func tryBind(check string, l *lb.Listener) finding {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { // a VIP is on no interface
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
		})
	}}
	s, err := lc.Listen(context.Background(), "tcp", l.Bind.String())
	switch {
	case err == nil:
		s.Close()
		return ok(check, "free")
	case errors.Is(err, syscall.EADDRINUSE):
		return bad(check, "somebody else listens there", fmt.Sprintf("ss -ltnp 'sport = :%d' shows who", l.Bind.Port()))
	case errors.Is(err, syscall.EACCES):
		return finding{Check: check, Result: "fail", Found: "a port below 1024 needs a privilege", lacks: true,
			Fix: "run lbd as root, or: sysctl -w net.ipv4.ip_unprivileged_port_start=" + fmt.Sprint(l.Bind.Port())}
	}
	return bad(check, err.Error(), "")
}
