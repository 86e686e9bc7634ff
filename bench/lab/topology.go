package main

import (
	_ "embed"
	"fmt"
	"net/netip"

	"github.com/goccy/go-yaml"
)

//go:embed topology.yaml
var topologyText []byte

// topology is who is there and how they hang together.
type topology struct {
	VIP      netip.AddrPort `yaml:"vip"`
	MTU      int            `yaml:"mtu"`
	Machines []machine      `yaml:"machines"`
}

type machine struct {
	Name string       `yaml:"name"`
	Role string       `yaml:"role"` // router | client | node | backend
	Link netip.Prefix `yaml:"link"` // to the router; the router itself has none
}

const (
	gossipPort  = 7946
	metricsPort = 9900
	originPort  = 8080
)

func parseTopology(text []byte) (*topology, error) {
	var t topology
	if err := yaml.UnmarshalWithOptions(text, &t, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("read topology: %w", err)
	}
	routers, links := 0, map[netip.Prefix]string{}
	for _, m := range t.Machines {
		switch {
		case m.Role == "router":
			routers++
		case m.Link != m.Link.Masked() || m.Link.Bits() != 30:
			return nil, fmt.Errorf("read topology: %s: link %s is not a /30", m.Name, m.Link)
		case links[m.Link] != "":
			return nil, fmt.Errorf("read topology: %s and %s share the link %s", links[m.Link], m.Name, m.Link)
		}
		links[m.Link] = m.Name
	}
	if routers != 1 {
		return nil, fmt.Errorf("read topology: %d routers, one is needed", routers)
	}
	return &t, nil
}

// gateway is the router's address on the machine's link.
func (m machine) gateway() netip.Addr { return m.Link.Addr().Next() }

// address is the machine's own.
func (m machine) address() netip.Addr { return m.gateway().Next() }

func (m machine) cidr(a netip.Addr) string { return netip.PrefixFrom(a, m.Link.Bits()).String() }

// uplink is the machine's interface towards the router, downlink the router's.
func (m machine) uplink() string   { return "up0" }
func (m machine) downlink() string { return "to-" + m.Name }

func (t *topology) role(role string) (machines []machine) {
	for _, m := range t.Machines {
		if m.Role == role {
			machines = append(machines, m)
		}
	}
	return machines
}

func (t *topology) router() machine { return t.role("router")[0] }
