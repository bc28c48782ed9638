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
)

// formats are what an image may be, by what it begins with; one that is nothing
// of all this is raw. QEMU is told, and not left to find out: some of its
// formats name other files.
var formats = []struct {
	name  string
	at    int64 // from the end if it is negative
	magic string
	read  bool
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

// formatOf is the format of an image, as QEMU calls it.
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
			return "", fmt.Errorf("it is an image of the format %s, which is not read (qemu-img convert -O qcow2 makes one that is)", k.name)
		}
		if k.name == "vmdk" {
			err = vmdkAlone(f)
		}
		return k.name, err
	}
	return "raw", nil
}

// vmdkExtent is a line of a description that names a file, as section "Extent
// Description" of VMware's Virtual Disk Format 5.0 has it.
var vmdkExtent = regexp.MustCompile(`(?mi)^\s*(?:RW|RDONLY|NOACCESS)\s+\d+\s+\S+\s+"([^"\n]+)"`)

// vmdkAlone refuses an image that only describes where its content is: QEMU
// would open the files when it is asked no more than what they are.
func vmdkAlone(f *os.File) error {
	head := make([]byte, 64<<10)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	head = head[:n]
	// A sparse one without a capacity is an envelope of a description.
	if sparse := bytes.HasPrefix(head, []byte(vmdkSparse)); sparse && (n < 20 || binary.LittleEndian.Uint64(head[12:]) > 0) || !sparse && !bytes.HasPrefix(head, []byte(vmdkText)) {
		return nil
	}
	name := "?"
	if m := vmdkExtent.FindSubmatch(head); m != nil {
		name = string(m[1])
	}
	return elsewhere(name)
}

func elsewhere(name string) error {
	return fmt.Errorf("its content is in another file, %q, which is not read (qemu-img convert -O qcow2 makes one file of it)", name)
}

// selfContained refuses images that are encrypted or whose content is in other
// files too.
func selfContained(ctx context.Context, file, format string) error {
	cmd := exec.CommandContext(ctx, "qemu-img", "info", "--output=json", "-f", format, file)
	var said bytes.Buffer
	cmd.Stderr = &said
	text, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("qemu-img is not installed, which reads images (Debian: apt install qemu-utils)")
	}
	if err != nil {
		return fmt.Errorf("it is no image that QEMU can read, is damaged or was cut off: %s (copy or download it again)", strings.TrimSpace(said.String()))
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
		return errors.New("it is encrypted (qemu-img convert decrypts it, given the key)")
	case info.Backing != "":
		return fmt.Errorf("it is a difference to another file, %q, which is not followed (qemu-img convert -O qcow2 makes it one image)", info.Backing)
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

// undamaged refuses an image that is not whole: what is missing of it would
// read as zeros. Only what describes the content is read for that.
func undamaged(ctx context.Context, file, format string) error {
	switch format {
	case "raw":
		return nil // it has nothing that could be compared
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
	// What is leaked is not in the way, status 3 of qemu-img(1).
	if jerr := json.Unmarshal(text, &found); jerr == nil && found.Errors+found.Corruptions == 0 && (exit == nil || exit.ExitCode() == 3) {
		return nil
	}
	first, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
	return fmt.Errorf("it is damaged or was cut off: qemu-img check finds %d errors, the first of them: %s (copy or download it again)",
		max(found.Errors+found.Corruptions, 1), cmp.Or(first, "unknown"))
}

// vdiWhole looks for what qemu-img check does not: whether the file is as long
// as the blocks that its header counts.
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
		return fmt.Errorf("it was cut off in its header (copy or download it again): %w", err)
	}
	u32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(header[at:])) }
	data, block, extra, allocated := u32(0x158), u32(0x178), u32(0x17C), u32(0x184)
	if whole := data + allocated*(block+extra); block <= 1<<30 && fi.Size() < whole {
		return fmt.Errorf("it is damaged or was cut off: it has %d bytes, and its header speaks of %d (copy or download it again)", fi.Size(), whole)
	}
	return nil
}
