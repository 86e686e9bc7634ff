package main

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
)

// host is a patient whose /proc and /sys hold what is given.
func host(t *testing.T, files map[string]string) *patient {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &patient{root: root}
}

func TestDoctorJudgesTheHost(t *testing.T) {
	required := &lb.Config{Fastpath: lb.FastpathSettings{Required: true}}
	for _, c := range []struct {
		name   string
		files  map[string]string
		config *lb.Config
		check  func(*patient) finding
		result string
		lacks  bool
	}{
		{"a new kernel", map[string]string{"/proc/sys/kernel/osrelease": "6.18.44-fc"}, nil, (*patient).kernel, "ok", false},
		{"one that nobody tries", map[string]string{"/proc/sys/kernel/osrelease": "5.19.0-50-generic"}, required, (*patient).kernel, "warn", false},
		{"one that does not load the programs", map[string]string{"/proc/sys/kernel/osrelease": "5.10.0-30-amd64"}, nil, (*patient).kernel, "warn", false},
		{"one that does not, required", map[string]string{"/proc/sys/kernel/osrelease": "5.10.0-30-amd64"}, required, (*patient).kernel, "fail", true},
		{"no BTF", nil, nil, (*patient).btf, "warn", false},
		{"BTF", map[string]string{"/sys/kernel/btf/vmlinux": ""}, nil, (*patient).btf, "ok", false},
		{"no bpffs, required", nil, required, (*patient).bpffs, "fail", true},
		{"root", map[string]string{"/proc/self/status": "Name:\tx\nCapEff:\t000001ffffffffff"}, nil, (*patient).capabilities, "ok", false},
		{"nobody", map[string]string{"/proc/self/status": "CapEff:\t0000000000000000"}, nil, (*patient).capabilities, "warn", false},
		{"nobody, required", map[string]string{"/proc/self/status": "CapEff:\t0000000000000000"}, required, (*patient).capabilities, "fail", true},
		{"a short accept queue", map[string]string{"/proc/sys/net/core/somaxconn": "128"}, nil, (*patient).backlog, "warn", false},
		{"a long one", map[string]string{"/proc/sys/net/core/somaxconn": "4096"}, nil, (*patient).backlog, "ok", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := host(t, c.files)
			p.config = c.config
			got := c.check(p)
			if got.Result != c.result || got.lacks != c.lacks {
				t.Errorf("%+v, want %s", got, c.result)
			}
			if got.Result != "ok" && got.Fix == "" {
				t.Errorf("%+v has no fix", got)
			}
		})
	}
}

// The kernel takes the greater of all's and the interface's rp_filter.
func TestDoctorReadsRpFilterAsTheKernelDoes(t *testing.T) {
	for _, c := range []struct{ all, own, result string }{
		{"0", "0", "ok"}, {"0", "1", "fail"}, {"1", "0", "fail"}, {"2", "1", "ok"}, {"1", "2", "ok"},
	} {
		p := host(t, map[string]string{"/proc/sys/net/ipv4/conf/all/rp_filter": c.all, "/proc/sys/net/ipv4/conf/eth0/rp_filter": c.own})
		p.interfaces = []string{"eth0", "not-there"}
		got := p.reversePath()
		if len(got) != 1 || got[0].Result != c.result {
			t.Errorf("all %s, own %s: %+v, want %s", c.all, c.own, got, c.result)
		}
	}
}

func TestDoctorWantsRoomForWhatIsSent(t *testing.T) {
	node := func(address string) lb.NodeSettings { return lb.NodeSettings{Address: netip.MustParseAddr(address)} }
	for _, c := range []struct {
		sentence string
		config   *lb.Config
		want     int
	}{
		{"no configuration", nil, 1560},
		{"a fabric of IPv4", &lb.Config{Node: node("10.0.0.1"), Cluster: &lb.ClusterSettings{}}, 1560},
		{"a fabric of IPv6", &lb.Config{Node: node("fd00::1"), Cluster: &lb.ClusterSettings{}}, 1592},
		{"services", &lb.Config{Services: []*lb.Service{{}}}, 1560},
		{"nobody to send to", &lb.Config{}, 0},
	} {
		if got := (&patient{config: c.config}).fullMTU(); got != c.want {
			t.Errorf("%s: an MTU of %d, want %d", c.sentence, got, c.want)
		}
	}
}

func TestKernelVersion(t *testing.T) {
	for release, want := range map[string]int{"6.18.44-fc-v669": 6018, "5.9.0": 5009, "5.10-rc1": 5010, "nonsense": 0} {
		if got := kernelVersion(release); got != want {
			t.Errorf("%q is %d, want %d", release, got, want)
		}
	}
}

func TestDoctorTriesPortsUnlessLbdHasThem(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	busy := netip.MustParseAddrPort(l.Addr().String())
	p := &patient{config: &lb.Config{Listeners: []*lb.Listener{{Name: "web", Bind: busy}}}}
	if got := p.ports(); got[0].Result != "fail" || got[0].Fix == "" {
		t.Errorf("a port somebody has: %+v", got)
	}
	p.daemon = &admin.Status{Listeners: []admin.Listener{{Name: "web", Bind: busy.String()}}}
	if got := p.ports(); got[0].Result != "ok" {
		t.Errorf("a port lbd has: %+v", got)
	}
	vip := &patient{config: &lb.Config{Listeners: []*lb.Listener{{Bind: netip.MustParseAddrPort("192.0.2.10:0")}}}}
	if got := vip.ports(); got[0].Result != "ok" {
		t.Errorf("a VIP: %+v", got)
	}
}

func TestDiagnosisTellsLackFromFault(t *testing.T) {
	if err := diagnosis([]finding{ok("a", "b"), warn("a", "b", "c")}); err != nil {
		t.Errorf("warnings are no failure: %v", err)
	}
	if err := diagnosis([]finding{bad("a", "b", "c")}); err == nil || errors.As(err, &missing{}) {
		t.Errorf("a fault: %v", err)
	}
	if err := diagnosis([]finding{bad("a", "b", "c"), {Result: "fail", lacks: true}}); !errors.As(err, &missing{}) {
		t.Errorf("a lack: %v", err)
	}
}

func TestDoctorFindsWhatTheCardDoesToFrames(t *testing.T) {
	for _, c := range []struct {
		sentence string
		flags    uint32
		vlans    bool
		want     []string
	}{
		{"nothing", 0, true, nil},
		{"LRO", mergesFrames, false, []string{"ethtool -K eth0 lro off"}},
		{"tags are taken off, and nobody has any", stripsVLANs, false, nil},
		{"tags are taken off", stripsVLANs, true, []string{"ethtool -K eth0 rxvlan off"}},
		{"both", stripsVLANs | mergesFrames, true, []string{"ethtool -K eth0 lro off", "ethtool -K eth0 rxvlan off"}},
	} {
		var fixes []string
		for _, f := range frameFindings("eth0", c.flags, c.vlans) {
			fixes = append(fixes, f.Fix)
		}
		if !slices.Equal(fixes, c.want) {
			t.Errorf("%s: %q, want %q", c.sentence, fixes, c.want)
		}
	}
	if flags, err := cardFlags("lo"); err != nil || flags&mergesFrames != 0 {
		t.Errorf("lo has the flags %#x, %v", flags, err)
	}
	if _, err := cardFlags("not-there"); err == nil {
		t.Error("an interface that is not there has flags")
	}
}
