package lb

import (
	"os"
	"path"
	"strconv"
)

// Host is what defaults depend on besides the document.
type Host struct {
	Name   string
	UID    int
	Getenv func(string) string
}

func thisHost() *Host {
	name, _ := os.Hostname()
	return &Host{Name: name, UID: os.Geteuid(), Getenv: os.Getenv}
}

// fill sets what the document leaves to the host.
func (h *Host) fill(c *Config) {
	n := &c.Node
	setDefault(&n.Name, h.nodeName())
	setDefault(&n.DataDir, h.dataDir())
	setDefault(&n.RunDir, h.runDir())
	setDefault(&c.Fastpath.Pins, "/sys/fs/bpf/lbd/"+n.Name)
	setDefault(&c.Admin.Socket, path.Join(n.RunDir, "lbd.sock"))
	if c.Cluster != nil && !n.Address.IsValid() && !c.Cluster.Bind.Addr().IsUnspecified() {
		n.Address = c.Cluster.Bind.Addr() // where peers reach us, they reach us
	}
}

func setDefault(v *string, preset string) {
	if *v == "" {
		*v = preset
	}
}

// nodeName is the host's name as far as it makes a name.
func (h *Host) nodeName() string {
	if validName(h.Name) {
		return h.Name
	}
	return "node"
}

func (h *Host) dataDir() string {
	if h.UID == 0 {
		return "/var/lib/lbd"
	}
	if dir := h.Getenv("XDG_STATE_HOME"); path.IsAbs(dir) {
		return path.Join(dir, "lbd")
	}
	if home := h.Getenv("HOME"); path.IsAbs(home) {
		return path.Join(home, ".local/state/lbd")
	}
	return h.private("state")
}

func (h *Host) runDir() string {
	if h.UID == 0 {
		return "/run/lbd"
	}
	if dir := h.Getenv("XDG_RUNTIME_DIR"); path.IsAbs(dir) {
		return path.Join(dir, "lbd")
	}
	return h.private("run")
}

// private is a directory in /tmp of this user; who makes it checks its owner.
func (h *Host) private(what string) string {
	return path.Join("/tmp", "lbd-"+strconv.Itoa(h.UID), what)
}
