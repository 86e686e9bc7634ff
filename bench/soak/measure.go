package main

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cirque-lb/lb/bench/rig"
)

// measured is what lbd and its workers use.
type measured struct {
	memory      []memory // of each process, the supervisor's first
	fds         int
	goroutines  int // of the workers
	connections int
	workers     int
}

// memory is what a process has in RAM of its own. What it has of files, the
// program's text mostly, is shared and grows with every page that is looked at.
type memory struct{ own, files int64 }

func (m measured) own() (sum int64) {
	for _, p := range m.memory {
		sum += p.own
	}
	return sum
}

func (m measured) String() string {
	each := ""
	for i, p := range m.memory {
		name := "supervisor"
		if i > 0 {
			name = fmt.Sprintf("worker %d", i)
		}
		each += fmt.Sprintf(", %s %.1f + %.1f", name, float64(p.own)/(1<<20), float64(p.files)/(1<<20))
	}
	return fmt.Sprintf("%.1f MiB%s of files, %d fds, %d goroutines, %d clients", float64(m.own())/(1<<20), each, m.fds, m.goroutines, m.connections)
}

// grown says what is more than it was, beyond what a heap breathes.
func (m measured) grown(now measured) string {
	var all []string
	if most := m.own() + m.own()/10 + 8<<20; now.own() > most {
		all = append(all, fmt.Sprintf("memory is over %d MiB", most>>20))
	}
	if now.fds > m.fds+4 {
		all = append(all, "descriptors leak")
	}
	if now.goroutines > m.goroutines+8 {
		all = append(all, "goroutines leak")
	}
	if now.workers != m.workers {
		all = append(all, fmt.Sprintf("%d workers", now.workers))
	}
	return strings.Join(all, ", ")
}

// trend is how the last third of the samples is to the first third of those
// behind the first quarter: medians, for a heap breathes.
func trend(samples []int64) (from, to int64) {
	rest := samples[len(samples)/4:]
	third := len(rest) / 3
	if third == 0 {
		return 0, 0
	}
	return median(rest[:third]), median(rest[len(rest)-third:])
}

func median(all []int64) int64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

func (s *site) measure() (m measured) {
	family := rig.Family(s.cmd.Process.Pid)
	m.workers = len(family) - 1
	for _, pid := range family {
		m.memory = append(m.memory, memoryOf(pid))
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		m.fds += len(fds)
	}
	res, err := s.admin.Get("http://lbd/metrics")
	if err != nil {
		return m
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		n, _ := strconv.ParseFloat(value, 64)
		name, _, _ = strings.Cut(name, "{")
		switch name {
		case "lbd_worker_goroutines":
			m.goroutines += int(n)
		case "lbd_connections":
			m.connections += int(n)
		}
	}
	return m
}

func memoryOf(pid int) (m memory) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "RssAnon:":
			m.own += n << 10
		case "RssFile:", "RssShmem:":
			m.files += n << 10
		}
	}
	return m
}
