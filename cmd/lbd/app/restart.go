package app

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
)

// `systemctl restart` stops and starts: to whoever is told to end it looks like
// `systemctl stop`. The jobs of systemd say which it is. When another lbd starts right
// away, nobody has to notice: the workers are replaced by those of the program on
// disk, and are left serving for the supervisor that comes.

// How long the parts of a restart may take; then it is a stop and a start.
const (
	jobTimeout     = 3 * time.Second  // systemd to say what it does
	restartTimeout = 60 * time.Second // workers to be replaced
)

// restarts reports whether systemd ends us to start us again.
func restarts(ctx context.Context) bool {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return false // it did not start us
	}
	ctx, cancel := context.WithTimeout(ctx, jobTimeout)
	defer cancel()
	c := exec.CommandContext(ctx, "systemctl", "list-jobs", "--no-legend", "--full", "--plain", ownUnit())
	c.WaitDelay = time.Second
	out, err := c.Output()
	if err != nil {
		return false
	}
	for line := range bytes.Lines(out) {
		if words := strings.Fields(string(line)); len(words) > 2 && words[1] == ownUnit() {
			return words[2] == "restart" // its number, its unit, its type, its state
		}
	}
	return false
}

// ownUnit is what systemd calls us: the name of our group.
func ownUnit() string {
	text, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(text)) {
		if name := filepath.Base(strings.TrimSpace(line)); strings.HasSuffix(name, ".service") {
			return name
		}
	}
	return "lbd.service"
}

// makeWay readies everything for a supervisor that comes at once, if one does: the
// file is read anew and the workers are replaced. What fails of that is as it would
// be for the next supervisor; those that serve go on.
func (d *daemon) makeWay(ctx context.Context) bool {
	if !restarts(ctx) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, restartTimeout)
	defer cancel()
	err := d.try(ctx, d.binary)
	if errors.Is(err, errVersions) || d.moves() {
		d.log.Warn("restart: a stop and a start, as the next lbd could not go on with the workers", "err", err)
		return false
	}
	asked := node.Asked{By: "systemctl restart"}
	if err == nil {
		_, err = d.node.Reload(ctx, asked)
	}
	if err == nil {
		err = d.node.Upgrade(ctx, "", asked)
	}
	if err != nil {
		d.log.Error("restart: the workers of before go on", "err", err)
	}
	d.log.Info("the workers serve on for the next supervisor")
	return true
}

// moves reports whether the next supervisor looks for workers and maps elsewhere.
func (d *daemon) moves() bool {
	text, err := os.ReadFile(d.file)
	if err != nil {
		return false
	}
	c, err := parse(d.file, text)
	return err == nil && (c.Node.RunDir != d.config.Node.RunDir || c.Fastpath.Pins != d.config.Fastpath.Pins)
}
