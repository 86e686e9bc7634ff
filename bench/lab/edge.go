package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"text/template"
)

// config is a node's lbd.yaml.
func (l *lab) config(m machine) []byte {
	return l.nodeConfig(m, settings{
		Data: l.path(m.Name, "data"), Run: l.path(m.Name, "run"), Key: l.path("cluster.key"), Socket: l.socket(m),
		Interface: m.uplink(), Pins: l.pins + "/" + m.Name, Processes: l.processes(), Threads: fmt.Sprint(l.threads()), Echo: l.echo,
	})
}

// settings are what differs between namespaces and virtual machines.
type settings struct {
	Data, Run, Key, Socket, Interface, Pins string
	Processes                               int
	Threads                                 string
	Echo                                    bool // a TCP proxy beside the HTTP one
}

//go:embed lbd.yaml.tmpl
var configText string

var configTemplate = template.Must(template.New("lbd.yaml").Parse(configText))

// nodeConfig is the lbd.yaml of a node of this topology.
func (t *topology) nodeConfig(m machine, s settings) []byte {
	var seeds, origins, echoes []string
	for _, n := range t.role("node") {
		if n.Name != m.Name {
			seeds = append(seeds, fmt.Sprintf(`"%s:%d"`, n.address(), gossipPort))
		}
	}
	for _, o := range t.role("backend") {
		origins = append(origins, fmt.Sprintf(`"%s:%d"`, o.address(), originPort))
		echoes = append(echoes, fmt.Sprintf(`"%s:%d"`, o.address(), originPort+1))
	}
	echo := ""
	if s.Echo {
		echo = echoOf(t.VIP).String()
	}
	var b bytes.Buffer
	err := configTemplate.Execute(&b, map[string]any{
		"Name": m.Name, "Address": m.address(), "VIP": t.VIP, "Settings": s,
		"Gossip": gossipPort, "Metrics": metricsPort, "Seeds": strings.Join(seeds, ", "), "Origins": strings.Join(origins, ", "),
		"Echo": echo, "Echoes": strings.Join(echoes, ", "),
	})
	if err != nil {
		panic(err) // a fixed template of fixed fields
	}
	return b.Bytes()
}

func (l *lab) socket(m machine) string { return l.path(m.Name, "lbd.sock") }

// status is the part of `lbctl status -o json` that the lab looks at.
type status struct {
	State    string         `json:"state"`
	Fastpath fastpathStatus `json:"fastpath"`
	Workers  []workerStatus `json:"workers"`
	Nodes    []nodeStatus   `json:"nodes"`
	Pools    []poolStatus   `json:"pools"`
	Problems []struct {
		Subject, Text string
	} `json:"problems"`
}

type fastpathStatus struct {
	Mode   string `json:"mode"`
	Reason string `json:"reason"`
	Epoch  string `json:"epoch"`
}

type workerStatus struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	State string `json:"state"`
	Slots []int  `json:"slots"`
}

type nodeStatus struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Self   bool   `json:"self"`
	Ready  bool   `json:"ready"`
	Listed bool   `json:"listed"`
	View   uint16 `json:"view"`
	Weight int    `json:"weight"`
}

type poolStatus struct {
	Name     string `json:"name"`
	Backends int    `json:"backends"`
	Usable   int    `json:"usable"`
}

// serving lists the workers that take new connections.
func (s status) serving() (workers []workerStatus) {
	for _, w := range s.Workers {
		if w.State == "ready" {
			workers = append(workers, w)
		}
	}
	return workers
}

func (s status) allReady(processes int) bool { return len(s.serving()) == processes }

func (s status) pids() (pids []int) {
	for _, w := range s.serving() {
		pids = append(pids, w.PID)
	}
	return pids
}

// exitDegraded is lbctl's exit code for a node that an operator should look at.
const exitDegraded = 8

func (l *lab) status(m machine) (s status, err error) {
	out, err := l.ctl(m, "status", "-o", "json")
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != exitDegraded) {
		return s, err
	}
	if err := json.Unmarshal(out, &s); err != nil {
		return s, fmt.Errorf("read status: %w", err)
	}
	return s, nil
}

// ctl runs lbctl against a node and returns what it printed.
func (l *lab) ctl(m machine, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, l.lbctl, append([]string{"--addr", l.socket(m)}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("lbctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
