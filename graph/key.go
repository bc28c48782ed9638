// This file makes the key text of an action. It does not know any stage by name.
//
// # What a key is
//
// An action is one run of a node. Its key text describes the run as lines of
// "name value" in a fixed order. The action's key, [cache.ActionID], is the sha256
// of that text. Two actions with equal texts give equal outputs, so the second one
// need not run. This holds across constellations and processes.
//
//	meros key v1             the version of the format
//	stage hooks              the stage, and its revision
//	revision 3
//	param suite bookworm     every parameter that can change the output
//	local hooks/1 sha256:..  a file or tree of the host, then a line per file in it
//	input layer sha256:..    an input, by the digest of its content
//	output layer             an output, with its digest if the lock pins it
//
// The text is written for people: `meros why` shows its lines. Values that are not
// plain words are quoted as in Go, so that no value can look like another line. The
// order of inputs, parameters and outputs is the node's, and is part of the key.
//
// The revision of a stage is bumped whenever its code gives other bytes for the same
// key. The tools of the host that shape an output are parameters.
//
// # Why contents, and not the keys of the inputs
//
// An input line names the digest of the input's content. It does not name the key of
// the action that made it. If it did, every change at the bottom of the graph would
// rerun everything above. With contents, a stage that reruns and gives the same bytes
// leaves the keys of its users unchanged, and the cache answers for them. This is
// early cut-off: an edited comment in a source may rerun the compiler, but not the
// image.
//
// The price is that a key is unknown until the digests of all inputs are known. So
// [Build] asks for keys from the top down and computes them from the bottom up. It
// computes the key of a vertex again after its inputs have run, before the vertex runs
// itself. [PreviewBuild] cannot run anything, so it reports such nodes as [MayRun].
//
// A node with Fixed outputs is a fetch: the lock pins the digest of its output. Its
// users get their keys without it, and it runs only if they need its bytes.
//
// # What is never in a key
//
//   - Anything that cannot change the output: job counts, memory, verbosity. These
//     are a node's Hints and Needs.
//   - Paths of the host. A local tree has the name that the stage gave it.
//   - The time, and the modification times of files. Trees count by path, type, mode,
//     extended attributes and content, see [ReadLocal].
//   - The user's name, and the owners of files on the host.
//   - The node's name, which is only for people. Two machines share an action if
//     nothing else differs.
//   - Secrets and random identity. They are in no artifact either.
//   - Network, Devices, Shared, Deliver and the form of an input. A stage whose output
//     depends on one of these adds a parameter.
//
// # Where the text is stored, and how `why` uses it
//
// [cache.Store.Record] stores the text beside the action's entry, in a file named
// after its digest with the ending ".key". The program remembers, for each node, the
// action of the last build and the one before it. `meros why` reads the two texts and
// prints [Differences], the lines that differ, with a label for each input that
// is clearer than its digest.

package graph

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"meros/cache"
)

// keyVersion is the first line of every key text. Bumping it makes every cached
// action unreachable, so it changes only with the format of the text itself.
const keyVersion = "meros key v1"

// KeyText returns the canonical description of n's run on inputs with the given
// digests, which are in the order of n.Inputs. Equal texts mean equal outputs. The
// action's key is the sha256 of the text. A local tree is listed file by file after
// its digest, so that a difference names the file.
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

// quote returns plain words unchanged and all other strings quoted, among them the
// empty string and anything that begins with a quote.
func quote(s string) string {
	plain := s != "" && s[0] != '"' && strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || r > 0x7e
	}) < 0
	if plain {
		return s
	}
	return strconv.QuoteToASCII(s)
}

// key returns the key and the key text of v for the present digests of its inputs.
func (v *vertex) key() (cache.ActionID, []byte) {
	text := KeyText(v.node, digestsOf(v.node, func(i int) map[string]cache.Artifact { return v.inputs[i].outputs }))
	return cache.NewActionID(text), text
}

// digestsOf returns the digests of n's inputs. outputs returns the outputs of the
// node of an input, which are known.
func digestsOf(n *Node, outputs func(input int) map[string]cache.Artifact) []digest.Digest {
	ds := make([]digest.Digest, len(n.Inputs))
	for i, in := range n.Inputs {
		ds[i] = outputs(i)[in.Output].Digest
	}
	return ds
}
