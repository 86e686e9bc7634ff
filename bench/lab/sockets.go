package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// thread is one worker thread: the epoll instance of its loop.
type thread struct{ pid, epoll int }

// landing is where the client's connections to the VIP are on one node.
type landing struct {
	accepted map[uint16]thread // by the client's port
	queued   []uint16          // established, but nobody accepted them yet
	strange  []uint16          // accepted by none of the workers asked about
}

// landed asks the kernel who accepted what: a socket in the accept queue has no
// inode, an accepted one is watched by the epoll instance of its thread.
func landed(vip netip.AddrPort, workers []int) (landing, error) {
	l := landing{accepted: map[uint16]thread{}}
	if len(workers) == 0 {
		return l, nil
	}
	watched := map[uint64]thread{}
	for _, pid := range workers {
		if err := watchedBy(pid, watched); err != nil {
			return l, err
		}
	}
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", workers[0])) // of its namespace
	if err != nil {
		return l, fmt.Errorf("read sockets: %w", err)
	}
	for _, s := range parseSockets(table) {
		if s.local != vip || s.state != established {
			continue
		}
		t, known := watched[s.inode]
		switch {
		case s.inode == 0:
			l.queued = append(l.queued, s.remote.Port())
		case known:
			l.accepted[s.remote.Port()] = t
		default:
			l.strange = append(l.strange, s.remote.Port())
		}
	}
	return l, nil
}

// watchedBy notes the inode of every file that the epoll instances of a process
// watch.
func watchedBy(pid int, watched map[uint64]thread) error {
	infos, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil || len(infos) == 0 {
		return fmt.Errorf("process %d has no files (it is gone)", pid)
	}
	for _, info := range infos {
		if link, err := os.Readlink(strings.Replace(info, "fdinfo", "fd", 1)); err != nil || link != "anon_inode:[eventpoll]" {
			continue
		}
		text, err := os.ReadFile(info)
		if err != nil {
			return fmt.Errorf("read epoll instance: %w", err)
		}
		fd, _ := strconv.Atoi(filepath.Base(info))
		for _, inode := range parseEpoll(text) {
			watched[inode] = thread{pid, fd}
		}
	}
	return nil
}

// parseEpoll reads the lines "tfd: 9 events: 19 data: 9 pos:0 ino:2c1f sdev:8".
func parseEpoll(text []byte) (inodes []uint64) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		_, rest, found := strings.Cut(lines.Text(), " ino:")
		if !found {
			continue
		}
		if inode, err := strconv.ParseUint(strings.Fields(rest)[0], 16, 64); err == nil {
			inodes = append(inodes, inode)
		}
	}
	return inodes
}

const established = 1

type socket struct {
	local, remote netip.AddrPort
	state         int
	inode         uint64
}

// parseSockets reads /proc/net/tcp.
func parseSockets(table []byte) (sockets []socket) {
	lines := bufio.NewScanner(bytes.NewReader(table))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[0] == "sl" {
			continue
		}
		state, _ := strconv.ParseInt(f[3], 16, 0)
		inode, _ := strconv.ParseUint(f[9], 10, 64)
		sockets = append(sockets, socket{hexAddress(f[1]), hexAddress(f[2]), int(state), inode})
	}
	return sockets
}

// hexAddress reads 0A02000A:0050, where the address is in the host's order.
func hexAddress(s string) netip.AddrPort {
	address, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(address)
	number, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(raw) != 4 {
		return netip.AddrPort{}
	}
	var ip [4]byte
	binary.NativeEndian.PutUint32(ip[:], binary.BigEndian.Uint32(raw))
	return netip.AddrPortFrom(netip.AddrFrom4(ip), uint16(number))
}
