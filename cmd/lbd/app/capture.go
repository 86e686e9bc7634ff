package app

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/internal/admin"
	"github.com/cirque-lb/lb/l4"
)

// capturer captures packets: an l4.Datapath.
type capturer interface {
	Capture(context.Context, l4.Capture, func(l4.Sight) error) (l4.Captured, error)
}

// What a capture is when nothing else is said.
const (
	capturePackets = 1000
	captureSeconds = 10
	captureSnaplen = 256
)

// Capture writes packets of the fast path as pcapng.
func (c control) Capture(ctx context.Context, o admin.CaptureOrder, to io.Writer) (admin.CaptureDone, error) {
	order, err := captureOf(o)
	if err != nil {
		return admin.CaptureDone{}, err
	}
	if c.packets == nil {
		return admin.CaptureDone{}, noCapture(l4.ErrNoFastpath)
	}
	var file *l4.Pcapng
	begin := func() (err error) {
		if file == nil {
			file, err = l4.NewPcapng(to, order.Snaplen, interfaceName)
		}
		return err
	}
	done, err := c.packets.Capture(ctx, order, func(s l4.Sight) error {
		if err := begin(); err != nil {
			return err
		}
		return file.Write(s)
	})
	if err == nil {
		err = begin() // a file of no packets is a file
	}
	return admin.CaptureDone{Packets: done.Packets, Lost: done.Lost}, noCapture(err)
}

func noCapture(err error) error {
	switch {
	case errors.Is(err, l4.ErrNoFastpath):
		return &admin.Error{Status: http.StatusServiceUnavailable, Code: admin.CodeMissing, Detail: "There is nothing to capture: the fast path is off here.", Hint: "lbctl status says why; tcpdump sees what the kernel gets"}
	case errors.Is(err, l4.ErrCapturing):
		return &admin.Error{Status: http.StatusServiceUnavailable, Code: admin.CodeBusy, Detail: "Another capture runs: one at a time."}
	}
	return err
}

// captureOf reads an order.
func captureOf(o admin.CaptureOrder) (l4.Capture, error) {
	c := l4.Capture{
		Verdict: o.Verdict, Reason: lb.Reason(o.Reason),
		Packets: cmp.Or(o.Packets, capturePackets), For: time.Duration(cmp.Or(o.Seconds, captureSeconds)) * time.Second,
		Snaplen: cmp.Or(o.Snaplen, captureSnaplen),
	}
	var ends []netip.AddrPort
	for _, word := range strings.FieldsFunc(o.Flow, func(r rune) bool { return strings.ContainsRune(" ,>→", r) }) {
		switch word {
		case "tcp":
			c.Protocol = lb.TCP
			continue
		case "udp":
			c.Protocol = lb.UDP
			continue
		}
		end, err := parseEnd(word)
		if err != nil {
			return c, err
		}
		ends = append(ends, end)
	}
	switch len(ends) {
	case 0:
	case 1:
		c.Dst = ends[0]
	case 2:
		c.Src, c.Dst = ends[0], ends[1]
	default:
		return c, badQuestion("%q has more than two ends", o.Flow)
	}
	if err := c.Check(); err != nil {
		return c, badQuestion("%v", err)
	}
	return c, nil
}

// parseEnd reads an address with or without a port.
func parseEnd(word string) (netip.AddrPort, error) {
	if end, err := netip.ParseAddrPort(word); err == nil {
		return netip.AddrPortFrom(end.Addr().Unmap(), end.Port()), nil
	}
	a, err := netip.ParseAddr(word)
	if err != nil {
		return netip.AddrPort{}, badQuestion("%q is not ADDRESS:PORT", word)
	}
	return netip.AddrPortFrom(a.Unmap(), 0), nil
}

func interfaceName(index int) string {
	if i, err := net.InterfaceByIndex(index); err == nil {
		return i.Name
	}
	return "interface " + strconv.Itoa(index)
}
