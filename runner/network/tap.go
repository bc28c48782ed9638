// This file makes, opens and measures taps.

package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// tun is the device that makes taps, see Documentation/networking/tuntap of
// Linux.
const tun = "/dev/net/tun"

// addTap makes a tap that stays while no process has it open.
func addTap(name string) error {
	f, err := OpenTap(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("make the tap persistent: %w", err)
	}
	return nil
}

// OpenTap opens the machine's end of a tap. Each read and write is an Ethernet
// frame after a virtio-net header. QEMU takes the descriptor as tap,fd=.
func OpenTap(name string) (*os.File, error) {
	f, err := os.OpenFile(tun, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("machines with networks need a tap: %w", err)
		return nil, hint.Add(err, "run `modprobe tun && chmod 0666 %s` as root; on Debian, udev does that", tun)
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

// Traffic returns how many bytes a tap's machine has sent and received. It
// returns zeros for a missing tap.
func Traffic(name string) (out, in int64) {
	l, err := netlink.LinkByName(name)
	if err != nil || l.Attrs().Statistics == nil {
		return 0, 0
	}
	return int64(l.Attrs().Statistics.RxBytes), int64(l.Attrs().Statistics.TxBytes)
}
