package app

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/l4"
)

func TestACaptureIsAskedForInWords(t *testing.T) {
	defaults := l4.Capture{Packets: 1000, For: 10 * time.Second, Snaplen: 256}
	with := func(edit func(*l4.Capture)) l4.Capture {
		c := defaults
		edit(&c)
		return c
	}
	vip, client := netip.MustParseAddrPort("192.0.2.10:80"), netip.MustParseAddrPort("198.51.100.7:40000")
	for flow, want := range map[string]l4.Capture{
		"":                                       defaults,
		"192.0.2.10:80":                          with(func(c *l4.Capture) { c.Dst = vip }),
		"192.0.2.10":                             with(func(c *l4.Capture) { c.Dst = netip.AddrPortFrom(vip.Addr(), 0) }),
		"udp 192.0.2.10:80":                      with(func(c *l4.Capture) { c.Dst, c.Protocol = vip, lb.UDP }),
		"tcp 198.51.100.7:40000 > 192.0.2.10:80": with(func(c *l4.Capture) { c.Src, c.Dst, c.Protocol = client, vip, lb.TCP }),
		"198.51.100.7:40000 192.0.2.10:80":       with(func(c *l4.Capture) { c.Src, c.Dst = client, vip }),
	} {
		if got, err := captureOf(admin.CaptureOrder{Flow: flow}); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", flow, got, err, want)
		}
	}
	for _, o := range []admin.CaptureOrder{
		{Flow: "here"}, {Flow: "192.0.2.10:80 192.0.2.10:80 192.0.2.10:80"}, {Packets: -1}, {Seconds: 100_000}, {Snaplen: 9000}, {Verdict: "maybe"}, {Reason: "no_route"},
	} {
		var e *admin.Error
		if _, err := captureOf(o); !errors.As(err, &e) || e.Code != admin.CodeRequest {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// seeing is a capturer that sees one packet.
type seeing struct{ err error }

func (s seeing) Capture(_ context.Context, _ l4.Capture, see func(l4.Sight) error) (l4.Captured, error) {
	if s.err != nil {
		return l4.Captured{}, s.err
	}
	return l4.Captured{Packets: 1}, see(l4.Sight{At: time.Now(), Verdict: "drop", Reason: lb.XDPNoOwner, Ifindex: 1, Length: 60, Frame: make([]byte, 60)})
}

func TestACaptureSaysWhyThereIsNone(t *testing.T) {
	for code, c := range map[string]capturer{admin.CodeMissing: nil, admin.CodeBusy: seeing{l4.ErrCapturing}} {
		var e *admin.Error
		if _, err := (control{packets: c}).Capture(t.Context(), admin.CaptureOrder{}, new(bytes.Buffer)); !errors.As(err, &e) || e.Code != code {
			t.Errorf("want %s: %v", code, err)
		}
	}
	var b bytes.Buffer
	done, err := control{packets: seeing{}}.Capture(t.Context(), admin.CaptureOrder{}, &b)
	if err != nil || done.Packets != 1 || !bytes.Contains(b.Bytes(), []byte("drop xdp_no_owner")) || !bytes.Contains(b.Bytes(), []byte("lo")) {
		t.Errorf("%+v, %v: % x", done, err, b.Bytes())
	}
}
