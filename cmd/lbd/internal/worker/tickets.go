package worker

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
)

// TLS session tickets are sealed with keys that all workers share and that
// change by the hour, so that a session can be resumed at another worker, after
// an upgrade, and (when the secret is a cluster's) at another node.

// ticketKey is a key as it travels.
type ticketKey = []byte

const ticketHour = int64(time.Hour / time.Second)

// ticketKeys are the keys at a time: the first one seals, all open. Each secret
// gives the hour's key, the one before for tickets that were just issued, and
// the one after for those of nodes whose clocks are ahead. Of several secrets
// (a cluster's, while its key is being changed) the first one seals.
func ticketKeys(secrets [][]byte, now time.Time) []ticketKey {
	hour := now.Unix() / ticketHour
	var keys []ticketKey
	for _, secret := range secrets {
		for _, h := range []int64{hour, hour - 1, hour + 1} {
			key, err := hkdf.Key(sha256.New, secret, nil, fmt.Sprintf("lb session tickets, hour %d", h), 32)
			if err != nil {
				panic("worker: derive a ticket key: " + err.Error()) // lengths are fixed
			}
			keys = append(keys, key)
		}
	}
	return keys
}

// ticketFile holds the secret of a node without a cluster. It is in run_dir:
// it outlives workers and supervisors, but no reboot where that is in memory.
const ticketFile = "tickets.key"

// ownSecret reads the secret, or makes one.
func ownSecret(runDir string) ([]byte, error) {
	path := filepath.Join(runDir, ticketFile)
	secret, err := os.ReadFile(path)
	if err == nil && len(secret) == 32 {
		return secret, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the secret of session tickets: %w", err)
	}
	secret = make([]byte, 32)
	rand.Read(secret) // never fails
	if err := renameio.WriteFile(path, secret, 0o600, renameio.WithTempDir(runDir)); err != nil {
		return nil, fmt.Errorf("keep the secret of session tickets: %w", err)
	}
	return secret, nil
}

// ticketTick is how often somebody looks whether the hour has changed; being
// late is no harm, for the next hour's key is known already.
const ticketTick = 20 * time.Second

// runTickets gives every worker the keys of the hour.
func (f *Fleet) runTickets() {
	tick := time.NewTicker(ticketTick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = each(f.everybody(), func(m *member) error { return f.sendTickets(f.ctx, m, m.conn) })
		case <-f.ctx.Done():
			return
		}
	}
}

// SetTickets changes the secrets while the workers serve: those of a cluster
// whose key is being changed.
func (f *Fleet) SetTickets(secrets [][]byte) {
	f.mu.Lock()
	f.options.Tickets = secrets
	f.mu.Unlock()
	all := f.everybody()
	f.mu.Lock()
	for _, m := range all {
		m.tickets = 0
	}
	f.mu.Unlock()
	_ = each(all, func(m *member) error { return f.sendTickets(f.ctx, m, m.conn) }) // who missed it gets it with the next tick
}

// sendTickets gives a worker the keys, unless it has them. One that does not
// know how to take them (of an older lbd) goes on with its own.
func (f *Fleet) sendTickets(ctx context.Context, m *member, c *conn) error {
	now := time.Now()
	hour := now.Unix() / ticketHour
	f.mu.Lock()
	has, secrets := m.tickets == hour, f.options.Tickets
	f.mu.Unlock()
	if has {
		return nil
	}
	_, err := c.quick(ctx, opTickets, ticketKeys(secrets, now), nil, nil)
	var no refusal
	if errors.As(err, &no) {
		f.options.Log.Warn("a worker keeps its own keys of session tickets", "worker", m.socket, "err", no)
		err = nil
	}
	if err == nil {
		f.mu.Lock()
		m.tickets = hour
		f.mu.Unlock()
	}
	return err
}

// setTickets is the worker's side.
func (p *process) setTickets(keys []ticketKey) error {
	out := make([][32]byte, len(keys))
	for i, key := range keys {
		if len(key) != 32 {
			return fmt.Errorf("a ticket key of %d bytes", len(key))
		}
		out[i] = [32]byte(key)
	}
	return p.server.SetTicketKeys(out)
}
