package graph

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"meros/cache"
)

// keyVersion is the first line of every key text. Bumping it forgets every
// cached action, so it changes only with the format of the text itself.
const keyVersion = "meros key v1"

// KeyText is the canonical description of what n would do to inputs with the
// given digests, in the order of n.Inputs. Equal texts mean equal outputs; an
// action's key is its sha256.
//
// The text is lines of "name value", in a fixed order, for people to read and
// diff. Values with white space or control characters are quoted as in Go, so
// that no value can look like another line. A local tree is listed file by
// file after its digest, so that a difference names the file. It names no node, path, time,
// user or job count.
func KeyText(n *Node, inputs []digest.Digest) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nstage %s\nrevision %d\n", keyVersion, quote(n.Stage), n.Revision)
	for _, p := range n.Params {
		fmt.Fprintf(&b, "param %s %s\n", quote(p.Name), quote(p.Value))
	}
	for _, l := range n.Locals {
		fmt.Fprintf(&b, "local %s %s\n", quote(l.Name), l.Digest)
		for _, e := range l.Entries {
			fmt.Fprintf(&b, "local %s %s\n", quote(l.Name), e)
		}
	}
	for i, in := range n.Inputs {
		fmt.Fprintf(&b, "input %s %s\n", quote(in.Name), inputs[i])
	}
	for _, o := range n.Outputs {
		fmt.Fprintf(&b, "output %s", quote(o))
		if a, ok := n.Fixed[o]; ok {
			fmt.Fprintf(&b, " %s", a.Digest)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// quote leaves plain words as they are and quotes the rest, the empty string
// and anything that begins with a quote included.
func quote(s string) string {
	plain := s != "" && s[0] != '"' && strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || r > 0x7e
	}) < 0
	if plain {
		return s
	}
	return strconv.QuoteToASCII(s)
}

// key computes the key text of v from what its inputs' digests are now.
func (v *vertex) key() (cache.ActionID, []byte) {
	text := KeyText(v.node, digestsOf(v.node, func(i int) map[string]cache.Artifact { return v.inputs[i].outputs }))
	return cache.NewActionID(text), text
}

// digestsOf are those of n's inputs, whose outputs are known.
func digestsOf(n *Node, outputs func(input int) map[string]cache.Artifact) []digest.Digest {
	ds := make([]digest.Digest, len(n.Inputs))
	for i, in := range n.Inputs {
		ds[i] = outputs(i)[in.Output].Digest
	}
	return ds
}
