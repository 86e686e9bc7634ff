package app

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cluster"
	"github.com/cirque-lb/lb/health"
	"github.com/google/renameio/v2"
)

// How health travels.
const (
	shareEvery   = 500 * time.Millisecond
	beatEvery    = 10 * time.Second // what still holds is said again
	suspectEvery = 2 * time.Second
	healthPart   = "health"
)

// sharer carries what the monitor says to the cluster, and what the others say
// to the monitor.
type sharer struct {
	monitor *health.Monitor
	cluster *cluster.Cluster
	self    string
	beaten  time.Time
	failed  error
}

// turn exchanges once.
func (s *sharer) turn(now time.Time) error {
	var words []health.Word
	for _, part := range s.cluster.SaidParts(healthPart) {
		for _, said := range s.cluster.Said(part) {
			if said.Alive {
				words = append(words, health.Word{Member: said.Member, Part: part, Body: said.Body, Heard: said.Heard})
			}
		}
	}
	beat := now.Sub(s.beaten) >= beatEvery
	if beat {
		s.beaten = now
	}
	var errs []error
	for part, body := range s.monitor.Share(s.self, words) {
		errs = append(errs, s.cluster.Say(part, body, beat && part == healthPart))
	}
	return errors.Join(errs...)
}

func (d *daemon) runShare(ctx context.Context) error {
	s := sharer{monitor: d.monitor, cluster: d.cluster, self: d.config.Node.Name}
	every := time.NewTicker(shareEvery)
	defer every.Stop()
	for {
		if err := s.turn(time.Now()); err != nil && (s.failed == nil || s.failed.Error() != err.Error()) {
			d.log.Warn("health is not shared", "err", err)
			s.failed = err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
	}
}

// healthFile keeps what is known of backends where the workers' sockets are: it
// outlives this process, not the host.
func healthFile(c *lb.Config) string { return filepath.Join(c.Node.RunDir, "health.json") }

func (d *daemon) recallHealth() {
	text, err := os.ReadFile(healthFile(d.config))
	if err == nil {
		err = d.monitor.Recall(text)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn("health is probed anew", "err", err)
	}
}

// runRemember writes health down when it changed, and has the monitor look at
// backends that workers ejected.
func (d *daemon) runRemember(ctx context.Context) error {
	every := time.NewTicker(suspectEvery)
	defer every.Stop()
	var kept string
	keep := func() {
		text := string(d.monitor.Remember())
		if text == kept {
			return
		}
		if err := renameio.WriteFile(healthFile(d.config), []byte(text), 0o600); err != nil {
			d.log.Warn("health is not kept over a restart", "err", err)
		}
		kept = text
	}
	for {
		select {
		case <-ctx.Done():
			keep()
			return nil
		case <-every.C:
			keep()
			d.suspect()
		}
	}
}

// suspect tells the monitor of backends that fail requests although their checks
// find them up.
func (d *daemon) suspect() {
	c := d.node.Snapshot().Config
	judged := false
	for _, p := range c.Pools {
		judged = judged || p.Outlier != nil && p.Check != nil
	}
	if !judged {
		return
	}
	for _, b := range d.node.Stats().Backends {
		if b.Ejected != nil {
			d.monitor.Suspect(b.ID)
		}
	}
}
