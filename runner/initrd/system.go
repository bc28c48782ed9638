// This file grows, fills and reads root file systems in a guest. It serves file
// systems for which the host has no program.

package initrd

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// systemConfig is the file of an initrd that holds its [System].
const systemConfig = "meros-system"

// SystemTreePort is the virtio port that receives the tree of a [System], as a
// layer. The result goes to [HooksResultPort].
const SystemTreePort = "meros.tree"

// System describes the work of a guest on a root file system that the host has no
// program for: btrfs or xfs.
type System struct {
	Devices []Device `json:"devices"` // the candidates for the root file system
	Grow    bool     `json:"grow"`    // grow it to the size of the device
	Read    bool     `json:"read"`    // write its tree to the port
	Layers  int      `json:"layers"`  // the number of layers on the second disk to apply, in order
}

// Device is a block device of the guest, and the type of its file system.
type Device struct {
	Path string `json:"path"`
	Kind string `json:"kind"`
}

// SystemResult reports a guest's work on a root file system.
type SystemResult struct {
	Device int    `json:"device"`          // index of the device with the root file system
	Flags  string `json:"flags,omitempty"` // mount options
	Free   int64  `json:"free"`            // free bytes before the layers were applied
	Full   bool   `json:"full,omitempty"`  // the layers do not fit
	Error  string `json:"error,omitempty"`
	Hint   string `json:"hint,omitempty"` // the next steps after Error, one a line
}

// WriteSystem creates file from the initrd base. A guest that boots with it
// carries out s and powers off.
func WriteSystem(file, base string, s System) error {
	config, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return appendFiles(file, base, []File{{Name: systemConfig, Mode: 0o600, Data: config}})
}

// runSystem carries out the [System] of the initrd, reports the result and powers
// off. It returns false if the initrd has none.
func runSystem(in Inside) (bool, error) {
	var s System
	if there, err := readConfig(systemConfig, &s); !there || err != nil {
		return there, err
	}
	result, err := openPort(HooksResultPort)
	if err != nil {
		return true, err
	}
	r := new(SystemResult)
	err = s.do(in, r)
	if len(mountsBelow(newRoot)) > 0 {
		err = errors.Join(err, new(Hooks).leaveRoot())
	}
	if err != nil {
		r.Error, r.Hint = err.Error(), hint.Of(err)
	}
	return true, end(result, r)
}

func (s *System) do(in Inside, r *SystemResult) (err error) {
	if r.Device, r.Flags, err = s.find(); err != nil {
		return err
	}
	d := s.Devices[r.Device]
	if s.Grow {
		if err := growMounted(newRoot, d); err != nil {
			return fmt.Errorf("grow the file system (%s): %w", d.Kind, err)
		}
	}
	if r.Free, err = free(newRoot); err != nil {
		return err
	}
	if s.Layers > 0 {
		if err := s.apply(in); err != nil {
			r.Full = errors.Is(err, unix.ENOSPC)
			return err
		}
	}
	if s.Read {
		if err := readTree(in); err != nil {
			return fmt.Errorf("read the file system: %w", err)
		}
	}
	return nil
}

// free returns the free space of a file system in bytes.
func free(dir string) (int64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	return int64(st.Bavail) * int64(st.Bsize), err
}

// find mounts the first device with a root file system, and returns its index and
// the mount options.
func (s *System) find() (device int, flags string, err error) {
	var errs []error
	for i, d := range s.Devices {
		err := mountRoot(d.Path, d.Kind, "")
		if errors.Is(err, unix.ENODEV) {
			err = hint.Add(err, "use a kernel with %s", d.Kind)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if isSystem(newRoot) {
			return i, "", nil
		}
		names, err := os.ReadDir(newRoot)
		if err != nil {
			return 0, "", err
		}
		if err := unix.Unmount(newRoot, 0); err != nil {
			return 0, "", err
		}
		errs = append(errs, fmt.Errorf("%s (%s) has neither /etc/passwd nor /etc/os-release", d.Path, d.Kind))
		if d.Kind != "btrfs" {
			continue
		}
		for _, n := range names { // any subvolume may hold the system
			flags := "subvol=" + n.Name()
			if mountRoot(d.Path, d.Kind, flags) != nil {
				continue
			}
			if isSystem(newRoot) {
				return i, flags, nil
			}
			if err := unix.Unmount(newRoot, 0); err != nil {
				return 0, "", err
			}
		}
	}
	return 0, "", fmt.Errorf("no root file system found: %w", errors.Join(errs...))
}

func isSystem(dir string) bool {
	for _, name := range []string{"etc/passwd", "etc/os-release"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

// apply applies the layers on the second disk, one after the other.
func (s *System) apply(in Inside) error {
	f, err := os.Open("/dev/vdb")
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	for i := range s.Layers {
		if err := in.Apply(r, newRoot); err != nil {
			return fmt.Errorf("apply layer %d: %w", i+1, err)
		}
	}
	return nil
}

func readTree(in Inside) error {
	port, err := openPort(SystemTreePort)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(port, 1<<20)
	return errors.Join(in.Capture(w, newRoot), w.Flush())
}

// ioctl(2) requests that grow a mounted file system, from linux/btrfs.h and from
// xfs_fs.h of xfsprogs.
const (
	btrfsResize = 0x50009403
	xfsGeometry = 0x80705864
	xfsGrowData = 0x4010586e
	blkGetSize  = 0x80081272 // linux/fs.h, BLKGETSIZE64
)

// growMounted grows a mounted file system to the size of its device.
func growMounted(dir string, d Device) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if d.Kind == "btrfs" {
		var args struct {
			fd   int64
			name [4088]byte
		}
		copy(args.name[:], "max")
		return ioctl(f, btrfsResize, unsafe.Pointer(&args))
	}
	device, err := os.Open(d.Path)
	if err != nil {
		return err
	}
	defer device.Close()
	var size uint64
	if err := ioctl(device, blkGetSize, unsafe.Pointer(&size)); err != nil {
		return err
	}
	var geometry struct {
		blockSize uint32
		_         [6]uint32
		maxInodes uint32 // percent
		_         [20]uint32
	}
	if err := ioctl(f, xfsGeometry, unsafe.Pointer(&geometry)); err != nil {
		return err
	}
	grow := struct {
		blocks    uint64
		maxInodes uint32
	}{size / uint64(max(geometry.blockSize, 1)), geometry.maxInodes}
	return ioctl(f, xfsGrowData, unsafe.Pointer(&grow))
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// Inside holds the functions that work on a tree in a guest. The caller provides
// them.
type Inside struct {
	Around  Around                               // prepares a root for hooks
	Capture func(w io.Writer, root string) error // writes the tree as a layer
	Apply   func(r io.Reader, root string) error // reads one layer and applies it
}
