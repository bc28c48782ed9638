package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tun is the device that taps come from, Documentation/networking/tuntap of
// Linux.
const tun = "/dev/net/tun"

// addTap makes a tap that stays when nobody has it open.
func addTap(name string) error {
	f, err := OpenTap(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("keep it: %w", err)
	}
	return nil
}

// OpenTap opens the machine's end of a tap: each read and write is an Ethernet
// frame behind a header of virtio-net. QEMU takes it as tap,fd=.
func OpenTap(name string) (*os.File, error) {
	f, err := os.OpenFile(tun, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: machines with networks need it (as root: modprobe tun; chmod 0666 %s, as udev does on Debian)", err, tun)
	}
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%q cannot be the name of an interface: %w", name, err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, req); err != nil {
		f.Close()
		return nil, fmt.Errorf("open the tap %s: %w", name, err)
	}
	return f, nil
}

// Traffic is what has come out of a tap's machine and what went in, bytes; 0
// of a tap that there is not.
func Traffic(name string) (out, in int64) {
	l, err := netlink.LinkByName(name)
	if err != nil || l.Attrs().Statistics == nil {
		return 0, 0
	}
	return int64(l.Attrs().Statistics.RxBytes), int64(l.Attrs().Statistics.TxBytes)
}
