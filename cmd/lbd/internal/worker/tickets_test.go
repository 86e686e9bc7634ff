package worker

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestATicketIsGoodForAnHourAtLeastAndTwoAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secrets := [][]byte{bytes.Repeat([]byte{1}, 32)}
		for _, ahead := range []time.Duration{0, time.Second, 30 * time.Minute, time.Hour - time.Nanosecond} {
			issued := time.Now().Add(ahead)
			key := ticketKeys(secrets, issued)[0]
			good := func(after time.Duration) bool {
				return slices.ContainsFunc(ticketKeys(secrets, issued.Add(after)), func(k ticketKey) bool { return bytes.Equal(k, key) })
			}
			for _, after := range []time.Duration{-time.Hour, -time.Minute, 0, time.Minute, time.Hour} {
				if !good(after) {
					t.Errorf("issued %v into an hour: not good %v later", ahead, after)
				}
			}
			for _, after := range []time.Duration{2 * time.Hour, 24 * time.Hour, -2 * time.Hour} {
				if good(after) {
					t.Errorf("issued %v into an hour: still good %v later", ahead, after)
				}
			}
		}
	})
}

func TestBothKeysOfARotatingClusterOpenTickets(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	older, newer := []byte("older"), []byte("newer")
	for _, there := range [][][]byte{{older, newer}, {newer, older}} {
		for _, here := range [][][]byte{{older, newer}, {newer, older}} {
			key := ticketKeys(there, now)[0]
			if !slices.ContainsFunc(ticketKeys(here, now), func(k ticketKey) bool { return bytes.Equal(k, key) }) {
				t.Errorf("a node with %s does not open the tickets of one with %s", here, there)
			}
		}
	}
	keys := ticketKeys([][]byte{older, newer}, now)
	for i := range keys {
		for j := range i {
			if bytes.Equal(keys[i], keys[j]) {
				t.Errorf("keys %d and %d are the same", i, j)
			}
		}
	}
}

// held are the ticket keys of everybody who answers at an address.
func held(t *testing.T, addr string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for range 32 {
		all[ask(t, addr).Tickets] = true
	}
	return all
}

func TestWorkersShareTicketKeysWhateverHappensToThem(t *testing.T) {
	dir := shortDir(t)
	port := freePort(t)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	f := openFleet(t, dir)
	apply(t, f, update(1, documentOn(port)))
	hour := time.Now().Unix() / ticketHour
	before := held(t, addr)
	same := func(what string) {
		t.Helper()
		after := held(t, addr)
		if time.Now().Unix()/ticketHour != hour {
			t.Skip("the hour has changed")
		}
		if len(before) != 1 || before[""] || fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("%s: keys %v, before %v", what, after, before)
		}
	}
	same("at the start")
	victim := f.Crew()[0]
	p, _ := os.FindProcess(victim.PID)
	p.Kill()
	until(t, "another worker in its place", func() bool {
		c := f.Crew()[0]
		return c.PID != victim.PID && c.Ready
	})
	same("after a crash")
	if err := f.Upgrade(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	same("after an upgrade")
	f.Close()
	again := openFleet(t, dir)
	apply(t, again, update(1, documentOn(port)))
	if err := again.Upgrade(t.Context(), ""); err != nil { // new workers, which only the secret can make alike
		t.Fatal(err)
	}
	same("with another supervisor")
	if info, err := os.Stat(filepath.Join(dir, ticketFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret's file: %v, %v", info.Mode(), err)
	}
}

func TestTheHoursKeysAreHandedOutOnce(t *testing.T) {
	f, _ := started(t)
	for _, m := range f.everybody() {
		f.mu.Lock()
		hour := m.tickets
		f.mu.Unlock()
		if now := time.Now().Unix() / ticketHour; hour != now && hour != now-1 {
			t.Errorf("worker %s has the keys of hour %d, want %d", m.name(), hour, now)
		}
		f.mu.Lock()
		m.tickets-- // the hour changes
		f.mu.Unlock()
		if err := f.sendTickets(t.Context(), m, m.conn); err != nil || m.tickets != hour {
			t.Errorf("hour %d, %v", m.tickets, err)
		}
	}
}
