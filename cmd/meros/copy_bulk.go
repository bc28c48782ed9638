// This file copies through a virtio port beside the ssh session. Encryption takes most of
// the time of a copy in an emulated machine, and only the host and the machine's root see
// the port. The session decides which way to use, and starts the command.

package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"meros/runner/hint"
	"meros/runner/qemu"
	"meros/runner/vm"
)

// findBulk sets $c to the device of the port in the machine. The script offers it with the
// word "bulk", and then reads a line: a token, or nothing if the host does not use it.
const findBulk = `
c=
for p in /sys/class/virtio-ports/*; do
	if test -r "$p/name" && test "$(cat "$p/name")" = ` + qemu.BulkPort + ` && test -w "/dev/${p##*/}"; then c=/dev/${p##*/}; fi
done
`

// bulkIn opens descriptor 3 to read the archive. The port reads as empty until the machine
// sees that the host's side is open.
const bulkIn = `
if test -n "$token"; then
	exec 3<"$c"
	n=0
	until got=$(dd bs=32 count=1 iflag=fullblock <&3 2>/dev/null); test "$got" = "$token"; do
		n=$((n + 1))
		if test -n "$got" || test "$n" -gt 200; then echo "the port for copies is out of step; try again" >&2; exit 1; fi
		sleep 0.05
	done
else
	exec 3<&0
fi
`

// bulkOut opens descriptor 3 to write the archive.
const bulkOut = `
if test -n "$token"; then
	exec 3>"$c"
	printf %s "$token" >&3
else
	exec 3>&1
fi
`

// bulk is a connection to the port of a machine.
type bulk struct {
	net.Conn
	token string
}

// end closes only the writing side: a full close would lose the bytes that QEMU has not
// read yet.
func (b *bulk) end() error { return b.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// openBulk answers the offer of the machine. It returns nil if the archive goes through the
// session.
func openBulk(ctx context.Context, g *vm.Group, machine string, offered bool, answer io.Writer) (*bulk, error) {
	if offered {
		if c, err := g.DialBulk(ctx, machine); err == nil {
			id := make([]byte, 16)
			rand.Read(id)
			b := &bulk{c, hex.EncodeToString(id)}
			context.AfterFunc(ctx, func() { c.Close() })
			if _, err := fmt.Fprintln(answer, b.token); err != nil {
				c.Close()
				return nil, err
			}
			return b, nil
		}
	}
	_, err := fmt.Fprintln(answer)
	return nil, err
}

// readOffer reads the first line of the machine: words for its abilities.
func readOffer(r *bufio.Reader) (words map[string]bool) {
	line, _ := r.ReadString('\n')
	words = make(map[string]bool)
	for w := range strings.FieldsSeq(line) {
		words[w] = true
	}
	return words
}

// expectToken reads the token with which the machine begins at the port.
func (b *bulk) expectToken() error {
	got := make([]byte, len(b.token))
	if _, err := io.ReadFull(b, got); err != nil {
		return fmt.Errorf("read from the port for copies: %w", err)
	}
	if string(got) != b.token {
		return hint.Add(errors.New("the port for copies is out of step"), "try again")
	}
	return nil
}
