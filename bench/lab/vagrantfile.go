package main

import (
	_ "embed"
	"fmt"
	"io"
	"strings"
	"text/template"
)

//go:embed Vagrantfile.tmpl
var vagrantText string

// writeVagrantfile makes the same topology of virtual machines.
func writeVagrantfile(w io.Writer, t *topology) error {
	funcs := template.FuncMap{
		"router": t.router, "nodes": func() []machine { return t.role("node") },
		"address": machine.address, "gateway": machine.gateway,
		"originPort": func() int { return originPort },
		"link":       t.vagrantLink,
		"nodeConfig": func(m machine) string {
			return string(t.nodeConfig(m, installed(m, "eth1"))) // eth0 is Vagrant's
		},
		"indent": func(n int, text string) string {
			pad := strings.Repeat(" ", n)
			return pad + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n"+pad)
		},
	}
	tmpl, err := template.New("Vagrantfile").Funcs(funcs).Parse(vagrantText)
	if err != nil {
		return err
	}
	return tmpl.Execute(w, t)
}

// vagrantLink is a machine's link, as the providers want it: a network of its two
// ends alone, where the host has no address, with room for what encapsulation adds.
func (t *topology) vagrantLink(m machine) string {
	mtu := 1500
	if m.Role == "node" {
		mtu = t.MTU
	}
	return fmt.Sprintf(`virtualbox__intnet: "%[1]s", libvirt__network_name: "%[1]s", libvirt__forward_mode: "veryisolated", libvirt__dhcp_enabled: false, libvirt__mtu: %[2]d`, m.Name, mtu)
}

// installed are the settings of a node that has the package.
func installed(m machine, device string) settings {
	return settings{
		Data: "/var/lib/lbd", Run: "/run/lbd", Key: "/etc/lbd/cluster.key", Socket: "/run/lbd/lbd.sock",
		Interface: device, Pins: "/sys/fs/bpf/lbd/" + m.Name, Processes: 2, Threads: "auto",
	}
}
