// This file makes images that hold only the differences to another image, and merges
// chains of such images.

package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Delta writes a qcow2 image to out: base with the layers applied to its file
// system. [FromTree] made base from baseTree; with [Options.Patch], base is a
// foreign image.
//
// The header names base as backing, but nobody opens the base by that name.
// The image holds only the clusters that differ, in guest order, so it does not
// depend on the method by which it was made.
//
// The error is [ErrRepack] if the caller should make a whole image instead.
func Delta(ctx context.Context, out *os.File, base, backing, baseTree string, layers []string, o Options) error {
	list, err := changes(baseTree, layers, o.Patch)
	if err != nil {
		return err
	}
	q, err := openQcow2(base)
	if err != nil {
		return err
	}
	defer q.Close()
	files := o.files()
	if err := os.Mkdir(files, 0o700); err != nil {
		return err
	}
	commands, err := script(list, files)
	if err != nil {
		return err
	}
	cmds := filepath.Join(o.Work, "commands")
	if err := os.WriteFile(cmds, []byte(commands), 0o600); err != nil {
		return err
	}
	changed, err := apply(ctx, q, base, list, cmds, o)
	if err != nil {
		return err
	}
	defer changed.Close()
	clusters, err := differing(q, changed)
	if err != nil {
		return err
	}
	return writeQcow2(out, q.size, clusters, backing)
}

// apply runs the commands and returns the changed image. Both methods, FUSE and
// copy, give the same image.
func apply(ctx context.Context, q *qcow2, base string, list []change, cmds string, o Options) (changed *qcow2, err error) {
	r, err := freeSpaceIn(q, o.offset())
	if err != nil {
		return nil, err
	}
	short := r.lacks(list, q.size)
	if short != nil && short.Inodes > short.FreeInodes {
		return nil, short // debugfs would take long to find this out
	}
	entries := added(list)
	o.noteLargeDirectories("debugfs", entries)
	err = errNoExport
	if !hasManyEntries(entries) {
		changed, err = applyExported(ctx, base, q.size, cmds, o)
	}
	if errors.Is(err, errNoExport) {
		changed, err = applyCopied(ctx, q, cmds, o)
	}
	if errors.Is(err, ErrNoSpace) && short != nil {
		err = short
	}
	return changed, err
}

// files returns the directory in which debugfs runs and finds the files to write.
func (o Options) files() string { return filepath.Join(o.Work, "f") }

// offset returns where the file system begins, bytes.
func (o Options) offset() int64 {
	if o.Patch {
		return o.Offset
	}
	return PartitionOffset
}

// differing returns the clusters of top that differ from base.
func differing(base, top *qcow2) ([]cluster, error) {
	guests := make([]int64, 0, len(top.cluster))
	for g := range top.cluster {
		guests = append(guests, g)
	}
	sort.Slice(guests, func(i, j int) bool { return guests[i] < guests[j] })
	a, b := make([]byte, clusterSize), make([]byte, clusterSize)
	var cs []cluster
	for _, g := range guests {
		if err := base.bytes(g, a); err != nil {
			return nil, err
		}
		if err := top.bytes(g, b); err != nil {
			return nil, err
		}
		if bytes.Equal(a, b) {
			continue
		}
		c := top.cluster[g]
		c.zero = isZero(b)
		cs = append(cs, c)
	}
	return cs, nil
}

// errNoExport says that this host cannot show an image as a raw file.
var errNoExport = errors.New("this host cannot export images through FUSE")

// applyExported runs debugfs on a qcow2 overlay that qemu-storage-daemon(1) shows
// as a raw file. However large the image, it writes only the changed clusters.
// Except with [Options.Patch], it also reads only what it changes.
func applyExported(ctx context.Context, base string, size int64, cmds string, o Options) (*qcow2, error) {
	if !canExport() {
		return nil, errNoExport
	}
	overlay := filepath.Join(o.Work, "overlay.qcow2")
	f, err := os.Create(overlay)
	if err != nil {
		return nil, err
	}
	err = writeQcow2(f, size, nil, "base")
	f.Close()
	if err != nil {
		return nil, err
	}
	raw := filepath.Join(o.Work, "export")
	if err := os.WriteFile(raw, nil, 0o600); err != nil {
		return nil, err
	}
	stop, err := export(ctx, base, overlay, raw, o.Work)
	if err != nil {
		return nil, err
	}
	err = errors.Join(debugfs(ctx, raw, cmds, o.files(), o), stop())
	if err != nil {
		return nil, err
	}
	return openQcow2(overlay)
}

// canExport reports whether qemu-storage-daemon(1) and /dev/fuse are available.
func canExport() bool {
	if _, err := exec.LookPath("qemu-storage-daemon"); err != nil {
		return false
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// escaped doubles the commas in the value of an option, as qemu(1) requires.
func escaped(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// export shows the overlay on base as the file raw until stop is called.
func export(ctx context.Context, base, overlay, raw, work string) (stop func() error, err error) {
	pidFile := filepath.Join(work, "export.pid")
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, "qemu-storage-daemon",
		"--blockdev", "driver=file,node-name=base-file,read-only=on,filename="+escaped(base),
		"--blockdev", "driver=qcow2,node-name=base,read-only=on,file=base-file",
		"--blockdev", "driver=file,node-name=top-file,filename="+escaped(overlay),
		"--blockdev", "driver=qcow2,node-name=top,file=top-file,backing=base",
		"--export", "type=fuse,id=top,node-name=top,mountpoint="+escaped(raw)+",writable=on",
		"--pidfile", pidFile)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return nil, errNoExport
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	// The daemon writes the pid file once all exports are ready.
	for ready := false; !ready; {
		select {
		case <-ended:
			return nil, fmt.Errorf("%w: qemu-storage-daemon: %s", errNoExport, strings.TrimSpace(said.String()))
		case <-tick():
			_, err := os.Stat(pidFile)
			ready = err == nil
		}
	}
	return func() error {
		cmd.Process.Signal(unix.SIGTERM)
		if err := <-ended; err != nil {
			return fmt.Errorf("qemu-storage-daemon: %w: %s", err, strings.TrimSpace(said.String()))
		}
		return nil
	}, nil
}

// applyCopied runs debugfs on a raw copy of the image, for hosts without FUSE. It
// returns a mapping into the changed copy.
func applyCopied(ctx context.Context, base *qcow2, cmds string, o Options) (*qcow2, error) {
	raw, err := os.Create(filepath.Join(o.Work, "copy.raw"))
	if err != nil {
		return nil, err
	}
	if err := raw.Truncate(base.size); err != nil {
		return nil, err
	}
	for _, c := range base.sorted() {
		if !c.zero {
			if err := copyRange(raw, c.guest*clusterSize, c.src, c.off, clusterSize); err != nil {
				return nil, err
			}
		}
	}
	if err := debugfs(ctx, raw.Name(), cmds, o.files(), o); err != nil {
		return nil, err
	}
	clusters, err := rawClusters(raw, base.size)
	if err != nil {
		return nil, err
	}
	q := &qcow2{f: raw, size: base.size, cluster: make(map[int64]cluster, len(clusters))}
	for g := range base.cluster {
		q.cluster[g] = cluster{guest: g, zero: true} // the next loop overwrites the ones with content
	}
	for _, c := range clusters {
		q.cluster[c.guest] = c
	}
	return q, nil
}

// sorted returns the clusters in guest order.
func (q *qcow2) sorted() []cluster {
	cs := make([]cluster, 0, len(q.cluster))
	for _, c := range q.cluster {
		cs = append(cs, c)
	}
	sort.Slice(cs, func(i, j int) bool { return cs[i].guest < cs[j].guest })
	return cs
}

// Merge writes one image to out that holds the differences of a chain to base. The
// chain is given top first; the header names base as backing.
func Merge(out *os.File, chain []string, base, backing string) error {
	merged, size, done, err := mergeChain(chain)
	defer done()
	if err != nil {
		return err
	}
	q, err := openQcow2(base)
	if err != nil {
		return err
	}
	defer q.Close()
	clusters, err := differing(q, merged)
	if err != nil {
		return err
	}
	return writeQcow2(out, size, clusters, backing)
}

// mergeChain returns a chain, given top first, as one image. The caller must call
// done, also after an error: it closes the files.
func mergeChain(chain []string) (merged *qcow2, size int64, done func(), err error) {
	merged = &qcow2{cluster: make(map[int64]cluster)}
	var open []*qcow2
	done = func() {
		for _, q := range open {
			q.Close()
		}
	}
	for i, file := range chain {
		q, err := openQcow2(file)
		if err != nil {
			return nil, 0, done, err
		}
		open = append(open, q)
		if i == 0 {
			size = q.size
		}
		for g, c := range q.cluster {
			if _, ok := merged.cluster[g]; !ok && g*clusterSize < size {
				merged.cluster[g] = c
			}
		}
	}
	return merged, size, done, nil
}

// Flatten writes a self-contained image of a chain, given top first, to out.
func Flatten(ctx context.Context, out *os.File, chain []string) error {
	all, size, done, err := mergeChain(chain)
	defer done()
	if err != nil {
		return err
	}
	clusters := all.sorted()
	n := 0
	for _, c := range clusters {
		if !c.zero {
			clusters[n] = c
			n++
		}
	}
	return writeQcow2(out, size, clusters[:n], "")
}

// VirtualSize returns the size, in bytes, of the disk in a qcow2 image that meros
// made.
func VirtualSize(file string) (int64, error) {
	q, err := openQcow2(file)
	if err != nil {
		return 0, err
	}
	return q.size, q.Close()
}

// Backing returns the name of the backing file in an image's header, or "" if it
// has none.
func Backing(file string) (string, error) {
	q, err := openQcow2(file)
	if err != nil {
		return "", err
	}
	return q.backing, q.Close()
}

// Chain returns the chain of an image, top first: the image itself, and base if its
// header names a backing file.
func Chain(file, base string) ([]string, error) {
	backing, err := Backing(file)
	if err != nil || backing == "" {
		return []string{file}, err
	}
	return []string{file, base}, nil
}

// Overlay writes an empty image with the size of base to out. The image does not
// name base: the program that opens the two has to connect them.
func Overlay(out *os.File, base string) error {
	q, err := openQcow2(base)
	if err != nil {
		return err
	}
	defer q.Close()
	return writeQcow2(out, q.size, nil, "")
}

// tick sets the interval at which export checks whether the daemon is ready.
func tick() <-chan time.Time { return time.After(2 * time.Millisecond) }
