package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"

	"meros/runner/qemu"
	"meros/runner/vm"
)

// A copy goes through ssh, whose encryption is what takes the time in an
// emulated machine, or beside it through a virtio port that only the host and
// the machine's root see. The session of ssh decides which, starts what runs
// in the machine and knows how it ended.

// findBulk finds the port's device in the machine, as $c. What offers it says
// "bulk" if it may be used, and then reads a line: a token, or nothing where
// the host does not use it.
const findBulk = `
c=
for p in /sys/class/virtio-ports/*; do
	if test -r "$p/name" && test "$(cat "$p/name")" = ` + qemu.BulkPort + ` && test -w "/dev/${p##*/}"; then c=/dev/${p##*/}; fi
done
`

// bulkIn makes descriptor 3 what the archive is read from. The port is at its
// end as long as the host's side is not seen to be open.
const bulkIn = `
if test -n "$token"; then
	exec 3<"$c"
	n=0
	until got=$(dd bs=32 count=1 iflag=fullblock <&3 2>/dev/null); test "$got" = "$token"; do
		n=$((n + 1))
		if test -n "$got" || test "$n" -gt 200; then echo "the port for copies is out of step (try again)" >&2; exit 1; fi
		sleep 0.05
	done
else
	exec 3<&0
fi
`

// bulkOut makes descriptor 3 what the archive is written to.
const bulkOut = `
if test -n "$token"; then
	exec 3>"$c"
	printf %s "$token" >&3
else
	exec 3>&1
fi
`

// bulk is a connection to a machine's port, beside the session that uses it.
type bulk struct {
	net.Conn
	token string
}

// end says that nothing more comes. A connection that is closed altogether
// loses what QEMU has not read yet.
func (b *bulk) end() error { return b.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// offerBulk answers the machine's offer. It returns nil where the archive goes
// through the session.
func offerBulk(ctx context.Context, g *vm.Group, machine string, offered bool, answer io.Writer) (*bulk, error) {
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

// readOffer reads the line by which a machine begins: words for what it can.
func readOffer(r *bufio.Reader) (words map[string]bool) {
	line, _ := r.ReadString('\n')
	words = make(map[string]bool)
	for w := range strings.FieldsSeq(line) {
		words[w] = true
	}
	return words
}

// expectToken reads what the machine begins with at the port.
func (b *bulk) expectToken() error {
	got := make([]byte, len(b.token))
	if _, err := io.ReadFull(b, got); err != nil {
		return fmt.Errorf("the port for copies: %w", err)
	}
	if string(got) != b.token {
		return fmt.Errorf("the port for copies is out of step (try again)")
	}
	return nil
}
