// Package packaging_test checks what the package installs, as far as a machine
// has the programs for it.
package packaging_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cirque-lb/lb"
)

// program skips a test when a program is not there.
func program(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not here; Debian has it in %s", name, pkg)
	}
	return path
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// inRoot is a directory with the unit and what it starts, for systemd to look at.
func inRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for path, mode := range map[string]os.FileMode{"usr/sbin/lbd": 0o755, "bin/kill": 0o755} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	units := filepath.Join(root, "etc/systemd/system")
	if err := os.MkdirAll(units, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"network-online.target", "multi-user.target", "sysinit.target", "basic.target", "shutdown.target"} {
		if err := os.WriteFile(filepath.Join(units, name), []byte("[Unit]\nDefaultDependencies=no\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(units, "lbd.service"), []byte(read(t, "lbd.service")), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestSystemdUnderstandsTheUnit(t *testing.T) {
	analyze := program(t, "systemd-analyze", "systemd")
	out, err := exec.Command(analyze, "--root="+inRoot(t), "--man=no", "verify", "lbd.service").CombinedOutput()
	if text := strings.TrimSpace(string(out)); err != nil || text != "" {
		t.Errorf("%v\n%s", err, text)
	}
}

// mostExposed is what `systemd-analyze security` says of the unit, of 10: it may fall.
const mostExposed = 3.8

func TestTheUnitIsNotExposed(t *testing.T) {
	analyze := program(t, "systemd-analyze", "systemd")
	out, _ := exec.Command(analyze, "security", "--offline=true", "--no-pager", "./lbd.service").CombinedOutput()
	m := regexp.MustCompile(`exposure level for lbd.service: ([0-9.]+)`).FindSubmatch(out)
	if m == nil {
		t.Skipf("this systemd has no offline check: %.200s", out)
	}
	if got, _ := strconv.ParseFloat(string(m[1]), 64); got > mostExposed {
		t.Errorf("the exposure is %v, at most %v\n%s", got, mostExposed, out)
	}
}

// The user that workers become and the group of the admin socket.
func TestSystemdMakesTheUsers(t *testing.T) {
	sysusers := program(t, "systemd-sysusers", "systemd")
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(sysusers, "--root="+root, absolute(t, "lbd.sysusers")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if passwd := read(t, filepath.Join(root, "etc/passwd")); !regexp.MustCompile(`(?m)^lbd:x:\d+:\d+:Cirque load balancer:/var/lib/lbd:/usr/sbin/nologin$`).MatchString(passwd) {
		t.Errorf("users: %s", passwd)
	}
	if groups := read(t, filepath.Join(root, "etc/group")); !strings.Contains(groups, "\nlbd-admin:x:") && !strings.HasPrefix(groups, "lbd-admin:x:") {
		t.Errorf("groups: %s", groups)
	}
}

func TestSystemdMakesTheDirectories(t *testing.T) {
	tmpfiles := program(t, "systemd-tmpfiles", "systemd")
	if os.Geteuid() != 0 {
		t.Skip("directories of root need root")
	}
	root := t.TempDir()
	if out, err := exec.Command(tmpfiles, "--root="+root, "--create", absolute(t, "lbd.tmpfiles")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for dir, mode := range map[string]os.FileMode{"run/lbd": 0o755, "var/lib/lbd": 0o750, "var/log/lbd": 0o750} {
		if info, err := os.Stat(filepath.Join(root, dir)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want %v", dir, info, err, mode)
		}
	}
}

// A key that the kernel does not have is a mistake here, or one that was renamed.
func TestTheKernelHasWhatSysctlSets(t *testing.T) {
	keys := 0
	for line := range strings.Lines(read(t, "lbd.sysctl")) {
		key, _, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		keys++
		path := "/proc/sys/" + strings.ReplaceAll(strings.TrimSpace(key), ".", "/")
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	if keys < 5 {
		t.Errorf("found %d keys", keys)
	}
}

func absolute(t *testing.T, file string) string {
	t.Helper()
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhatThePackageInstallsAsConfigurationIsValid(t *testing.T) {
	if _, err := lb.Parse([]byte(read(t, "lbd.yaml")), lb.Options{File: "lbd.yaml"}); err != nil {
		t.Error(err)
	}
}

func TestTheScriptsAreShell(t *testing.T) {
	for _, file := range []string{"postinst", "prerm", "postrm", "build"} {
		if out, err := exec.Command("sh", "-n", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %s", file, out)
		}
	}
	if out, err := exec.Command("bash", "-n", "install-test").CombinedOutput(); err != nil {
		t.Errorf("install-test: %s", out)
	}
}

func TestManPagesAreClean(t *testing.T) {
	mandoc := program(t, "mandoc", "mandoc")
	pages, _ := filepath.Glob("man/*")
	if len(pages) != 3 {
		t.Fatalf("found %v", pages)
	}
	// No date: the same source gives the same page.
	out, _ := exec.Command(mandoc, append([]string{"-T", "lint", "-W", "warning"}, pages...)...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "missing date") {
			t.Error(line)
		}
	}
}
