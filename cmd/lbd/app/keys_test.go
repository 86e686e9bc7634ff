package app

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cluster"
	"github.com/cirque-lb/lb/cmd/internal/admin"
)

func TestAKeyIsUsedWhenEverybodyHasItAndRemovedWhenNobodySignsWithIt(t *testing.T) {
	older, newer := cluster.NewKey(), cluster.NewKey()
	rings := []*keyring{}
	var join []string
	for _, name := range []string{"edge-1", "edge-2"} {
		c := joined(t, name, join, older)
		join = append(join, c.Address().String())
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, []byte(older.String()+"\n"), 0o640); err != nil {
			t.Fatal(err)
		}
		rings = append(rings, &keyring{file: file, cluster: c, note: func(lb.Event) {}, tickets: func([][]byte) {}})
	}
	for deadline := time.Now().Add(10 * time.Second); len(rings[0].cluster.KeyRings()) < 2 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	try := func(node int, action, key, refusal string) {
		t.Helper()
		var err error
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			err = rings[node].change(admin.KeyOrder{Action: action, Key: key}, "test")
			if (err == nil) == (refusal == "") || time.Now().After(deadline) {
				break // else the others have not heard of it yet
			}
		}
		if (err == nil) != (refusal == "") || err != nil && !strings.Contains(err.Error(), refusal) {
			t.Errorf("%s on edge-%d: got %v, want %q", action, node+1, err, refusal)
		}
	}
	try(0, "add", "no key", "that is not a key")
	try(0, "add", newer.String(), "")
	try(0, "add", cluster.NewKey().String(), "there are two keys already")
	try(0, "use", newer.Name(), "edge-2 would not understand us")
	try(0, "use", "12345678", "there is no key")
	try(1, "add", newer.String(), "")
	try(0, "use", newer.Name(), "")
	try(0, "remove", newer.Name(), "signs")
	try(0, "remove", older.Name(), "edge-2 still sign with key "+older.Name())
	try(1, "use", newer.Name(), "")
	try(0, "remove", older.Name(), "")
	try(1, "remove", older.Name(), "")
	for _, r := range rings {
		text, err := os.ReadFile(r.file)
		info, _ := os.Stat(r.file)
		if err != nil || string(text) != newer.String()+"\n" || info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %q with mode %v, %v", r.file, text, info.Mode(), err)
		}
	}
}

// joined is a cluster's node on a loopback address.
func joined(t *testing.T, name string, join []string, key cluster.Key) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Open(cluster.Options{
		Name: "t", Self: lb.Member{Name: name, Address: netip.MustParseAddr("127.0.0.1"), Weight: 1}, Bind: netip.MustParseAddrPort("127.0.0.1:0"), Join: join, Keys: []cluster.Key{key},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	t.Cleanup(func() { cancel(); c.Close(); <-done })
	return c
}
