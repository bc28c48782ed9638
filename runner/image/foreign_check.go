// This file decides whether a foreign image is accepted. It recognizes the format
// without QEMU, and refuses images that are encrypted, damaged or that refer to
// other files.

package image

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"meros/runner/hint"
)

// formats lists the known image formats by magic number; any other file is raw.
// meros names the format to QEMU instead of letting QEMU detect it. Images of some
// formats name other files, which QEMU would open.
var formats = []struct {
	name  string
	at    int64 // offset of the magic number, from the end if negative
	magic string
	read  bool // whether meros accepts the format
}{
	{"qcow2", 0, "QFI\xfb\x00\x00\x00\x02", true},
	{"qcow2", 0, "QFI\xfb\x00\x00\x00\x03", true},
	{"vmdk", 0, vmdkSparse, true},
	{"vmdk", 0, "COWD", true},
	{"vmdk", 0, vmdkText, true},
	{"vdi", 0x40, "\x7f\x10\xda\xbe", true},
	{"vhdx", 0, "vhdxfile", true},
	{"qcow", 0, "QFI\xfb", false},
	{"vhd", 0, "conectix", false},
	{"qed", 0, "QED\x00", false},
	{"parallels", 0, "WithoutFreeSpace", false},
	{"parallels", 0, "WithouFreSpacExt", false},
	{"bochs", 0, "Bochs Virtual HD Image", false},
	{"cloop", 0, "#!/bin/sh\n#V2.0 Format\n", false},
	{"dmg", -512, "koly", false},
}

const (
	vmdkSparse = "KDMV"
	vmdkText   = "# Disk DescriptorFile"
)

// formatOf returns the format of an image by QEMU's name.
func formatOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	for _, k := range formats {
		b, at := make([]byte, len(k.magic)), k.at
		if at < 0 {
			at += fi.Size()
		}
		if _, err := f.ReadAt(b, max(at, 0)); err != nil || string(b) != k.magic {
			continue
		}
		if !k.read {
			return "", hint.Add(fmt.Errorf("unsupported image format %s", k.name), "convert it with `qemu-img convert -O qcow2`")
		}
		if k.name == "vmdk" {
			err = vmdkSelfContained(f)
		}
		return k.name, err
	}
	return "raw", nil
}

// vmdkExtent matches a line of a VMDK description that names a file, section "Extent
// Description" of VMware's Virtual Disk Format 5.0.
var vmdkExtent = regexp.MustCompile(`(?mi)^\s*(?:RW|RDONLY|NOACCESS)\s+\d+\s+\S+\s+"([^"\n]+)"`)

// vmdkSelfContained refuses an image that only describes where its content is. QEMU
// would open those files even for `qemu-img info`.
func vmdkSelfContained(f *os.File) error {
	head := make([]byte, 64<<10)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	head = head[:n]
	// A sparse image without a capacity only wraps a description.
	if sparse := bytes.HasPrefix(head, []byte(vmdkSparse)); sparse && (n < 20 || binary.LittleEndian.Uint64(head[12:]) > 0) || !sparse && !bytes.HasPrefix(head, []byte(vmdkText)) {
		return nil
	}
	name := "?"
	if m := vmdkExtent.FindSubmatch(head); m != nil {
		name = string(m[1])
	}
	return elsewhere(name)
}

// elsewhere refuses an image whose content is in the file name.
func elsewhere(name string) error {
	return hint.Add(fmt.Errorf("the content is in another file: %q", name), "make one file of it with `qemu-img convert -O qcow2`")
}

// notInstalled says that a program is missing from this host, its purpose, and
// Debian's package of it.
func notInstalled(program, purpose, pkg string) error {
	return hint.Add(fmt.Errorf("%s is not installed, which %s", program, purpose), "on Debian: `apt install %s`", pkg)
}

// damaged adds the next step to an error about a damaged image.
func damaged(err error) error { return hint.Add(err, "copy or download the image again") }

// selfContained refuses images that are encrypted, and images whose content is
// partly in other files.
func selfContained(ctx context.Context, file, format string) error {
	cmd := exec.CommandContext(ctx, "qemu-img", "info", "--output=json", "-f", format, file)
	var said bytes.Buffer
	cmd.Stderr = &said
	text, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return notInstalled("qemu-img", "reads images", "qemu-utils")
	}
	if err != nil {
		return damaged(fmt.Errorf("not a readable image, or damaged or truncated: %s", strings.TrimSpace(said.String())))
	}
	var info struct {
		Backing   string `json:"backing-filename"`
		Encrypted bool   `json:"encrypted"`
		Specific  struct {
			Data struct {
				Encrypt  any    `json:"encrypt"`
				DataFile string `json:"data-file"`
				Extents  []struct {
					Filename string `json:"filename"`
				} `json:"extents"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return err
	}
	data := info.Specific.Data
	switch {
	case info.Encrypted || data.Encrypt != nil:
		return hint.Add(errors.New("encrypted"), "decrypt it with `qemu-img convert`, given the key")
	case info.Backing != "":
		return hint.Add(fmt.Errorf("only a difference to another file, which is not followed: %q", info.Backing), "merge the two with `qemu-img convert -O qcow2`")
	case data.DataFile != "":
		return elsewhere(data.DataFile)
	}
	for _, e := range data.Extents {
		if e.Filename != file {
			return elsewhere(e.Filename)
		}
	}
	return nil
}

// undamaged refuses an incomplete image, whose missing parts would read as zeros. It
// reads only the metadata.
func undamaged(ctx context.Context, file, format string) error {
	switch format {
	case "raw":
		return nil // a raw image has no metadata to check
	case "vdi":
		if err := vdiWhole(file); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "qemu-img", "check", "--output=json", "-f", format, file)
	var said bytes.Buffer
	cmd.Stderr = &said
	text, err := cmd.Output()
	exit := (*exec.ExitError)(nil)
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	var found struct {
		Errors      int `json:"check-errors"`
		Corruptions int `json:"corruptions"`
	}
	// Leaked clusters are harmless, status 3 of qemu-img(1).
	if jerr := json.Unmarshal(text, &found); jerr == nil && found.Errors+found.Corruptions == 0 && (exit == nil || exit.ExitCode() == 3) {
		return nil
	}
	first, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
	return damaged(fmt.Errorf("damaged or truncated: qemu-img check finds %d errors, the first: %s", max(found.Errors+found.Corruptions, 1), cmp.Or(first, "unknown")))
}

// vdiWhole checks that the file is long enough for the blocks that its header
// counts. `qemu-img check` does not.
func vdiWhole(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	header := make([]byte, 0x188)
	if _, err := f.ReadAt(header, 0); err != nil {
		return damaged(fmt.Errorf("truncated in its header: %w", err))
	}
	u32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(header[at:])) }
	data, block, extra, allocated := u32(0x158), u32(0x178), u32(0x17C), u32(0x184)
	if whole := data + allocated*(block+extra); block <= 1<<30 && fi.Size() < whole {
		return damaged(fmt.Errorf("damaged or truncated: the file has %d bytes, but its header describes %d", fi.Size(), whole))
	}
	return nil
}
