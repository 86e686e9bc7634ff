package l4test

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of Ethtool, of linux/ethtool.h; their values are 0 and 1.
const (
	SetTxChecksum = 0x17 // ETHTOOL_STXCSUM
	SetGRO        = 0x2c // ETHTOOL_SGRO
)

// offloads turns GRO on and transmit checksums off.
func offloads(iface string) error {
	return errors.Join(Ethtool(iface, SetTxChecksum, 0), Ethtool(iface, SetGRO, 1))
}

// Ethtool sets one value of an interface of this thread's namespace.
func Ethtool(iface string, command, value uint32) error {
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
		return fmt.Errorf("ethtool command %#x of %s: %w", command, iface, errno)
	}
	return nil
}
