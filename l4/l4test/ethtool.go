package l4test

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// offloads turns GRO on and transmit checksums off.
func offloads(iface string) error {
	const (
		setTxChecksum = 0x17 // ETHTOOL_STXCSUM
		setGRO        = 0x2c // ETHTOOL_SGRO
	)
	if err := ethtool(iface, setTxChecksum, 0); err != nil {
		return fmt.Errorf("ethtool -K %s tx off: %w", iface, err)
	}
	if err := ethtool(iface, setGRO, 1); err != nil {
		return fmt.Errorf("ethtool -K %s gro on: %w", iface, err)
	}
	return nil
}

// ethtool sets one value of an interface of this thread's namespace.
func ethtool(iface string, command, value uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request := struct{ command, value uint32 }{command, value}
	var ifreq struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifreq.name[:unix.IFNAMSIZ-1], iface)
	ifreq.data = unsafe.Pointer(&request)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	if errno != 0 {
		return errno
	}
	return nil
}
