// This file runs one node and stores its outputs. It does not know how a process is
// started: a [Runner] does that.

package graph

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"meros/cache"
	"meros/runner/hint"
)

// Runner runs jobs. RunJob leaves each output of the node as a regular file in job.Out.
// Tests of the scheduler use a fake one.
type Runner interface {
	RunJob(ctx context.Context, job *Job) error
}

// Job is a node that is about to run, with the paths of its inputs.
type Job struct {
	Node   *Node
	Inputs []JobInput // in the order of Node.Inputs
	Out    string     // directory for the outputs
	Work   string     // directory for temporary files
	CPU    int        // tokens it may use
	Log    io.Writer
	Report func(done, total int64)

	Token   string // begins the messages of the job's process in its output; "" if nobody reads them
	Failure error  // the reason that the process gave for its failure, if it gave one
}

// JobInput is an input and the path where the process can read it.
type JobInput struct {
	Path     string
	Artifact cache.Artifact
}

// treeSuffix marks a directory in Job.Out: OUTPUT.tree equals the unpacked OUTPUT. The
// store adopts it, so that nobody has to unpack OUTPUT.
const treeSuffix = ".tree"

// logTail is the number of last lines of a failed node's log that an error carries.
const logTail = 20

// run runs v and stores its outputs, its log and its entry.
func (b *build) run(v *vertex) (e *cache.Entry, err error) {
	dir, err := os.MkdirTemp(b.Scratch, "node-*")
	if err != nil {
		return nil, fmt.Errorf("create a work directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	job := &Job{Node: v.node, Out: filepath.Join(dir, "out"), Work: filepath.Join(dir, "work"), CPU: max(v.cpu, 1)}
	if err := errors.Join(os.Mkdir(job.Out, 0o755), os.Mkdir(job.Work, 0o755)); err != nil {
		return nil, err
	}
	if job.Inputs, err = b.materialize(v); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	lines := &lineWriter{emit: func(l string) { b.observe(Event{Kind: Output, Node: v.node, Line: l}) }}
	job.Log = io.MultiWriter(log, lines)
	job.Report = func(done, total int64) {
		b.observe(Event{Kind: Progress, Node: v.node, Done: done, Total: total})
	}
	start := time.Now()
	err = b.Runner.RunJob(b.ctx, job)
	lines.flush()
	if err == nil {
		err = unchanged(v.node)
	}
	e = &cache.Entry{Node: v.node.Name, Stage: v.node.Stage, Duration: time.Since(start)}
	if err == nil {
		err = b.storeOutputs(v, job, e)
	}
	if err != nil {
		return nil, b.describe(v, log.Name(), lines, b.suspect(v, err))
	}
	if v.node.Fixed == nil {
		if fi, serr := log.Stat(); serr == nil && fi.Size() > 0 {
			a, perr := b.Store.Put(b.ctx, log.Name())
			if perr != nil {
				return nil, perr
			}
			e.Log = &a
		}
		err = b.Store.Record(v.action, v.keyText, *e)
	}
	return e, err
}

// ChangedError is the error for a local input that does not match its key. It was edited
// meanwhile, or the stat cache was wrong.
type ChangedError struct{ Path string }

func (e *ChangedError) Error() string { return e.Path + " was changed while it was read" }

// Hint returns the next step, see package hint.
func (e *ChangedError) Hint() string { return "build again" }

// unchanged returns a *[ChangedError] if a local input of the node no longer matches the
// key. If a file was edited while the node ran, the outputs may contain either state.
func unchanged(n *Node) error {
	for _, l := range n.Locals {
		if l.seen.Entries >= statTree {
			if now, err := fingerprintTree(l.Path, l.Skip); err == nil && now == l.seen {
				continue
			}
		}
		now, err := ReadLocal(l.Name, l.Path, l.Skip, nil)
		if err != nil {
			return err
		}
		if now.Digest != l.Digest {
			return &ChangedError{l.Path}
		}
	}
	return nil
}

// materialize returns the paths of v's inputs. It unpacks those of the form Tree.
func (b *build) materialize(v *vertex) ([]JobInput, error) {
	inputs := make([]JobInput, len(v.inputs))
	for i, in := range v.node.Inputs {
		a, ok := v.inputs[i].outputs[in.Output]
		if !ok {
			return nil, fmt.Errorf("%s has no output %q", in.Node.Name, in.Output)
		}
		path := b.Store.Path(a.Digest)
		if in.Form == Tree {
			var err error
			if path, err = b.Store.Tree(b.ctx, a, b.Unpack); err != nil {
				return nil, err
			}
		}
		inputs[i] = JobInput{path, a}
	}
	return inputs, nil
}

// storeOutputs moves the job's outputs into the store, or delivers them, and adds them
// to the entry.
func (b *build) storeOutputs(v *vertex, job *Job, e *cache.Entry) error {
	e.Outputs = make(map[string]cache.Artifact, len(v.node.Outputs))
	for _, name := range v.node.Outputs {
		file := filepath.Join(job.Out, name)
		fi, err := os.Lstat(file)
		if err != nil {
			return fmt.Errorf("output %s is missing although the stage succeeded", name)
		}
		if !fi.Mode().IsRegular() {
			return fmt.Errorf("output %s is not a regular file", name)
		}
		var a cache.Artifact
		if v.node.Deliver != "" {
			a, err = b.Store.Deliver(b.ctx, file, v.node.Deliver)
		} else {
			a, err = b.Store.Put(b.ctx, file)
		}
		if err != nil {
			return err
		}
		if want, ok := v.node.Fixed[name]; ok && want != a {
			return fmt.Errorf("output %s has the digest %s and %d bytes, but %s and %d bytes are pinned", name, short(string(a.Digest)), a.Size, short(string(want.Digest)), want.Size)
		}
		e.Outputs[name] = a
		if tree := file + treeSuffix; isDir(tree) {
			if err := b.Store.AdoptTree(b.ctx, a.Digest, tree); err != nil {
				return err
			}
		}
	}
	return nil
}

func isDir(name string) bool {
	fi, err := os.Lstat(name)
	return err == nil && fi.IsDir()
}

// present returns an error if one of v's outputs is missing from the store, or from its
// path of delivery.
func (b *build) present(v *vertex) error { return present(b.Store, v.node, v.outputs) }

func present(store *cache.Store, n *Node, outputs map[string]cache.Artifact) error {
	for name, a := range outputs {
		var err error
		if n.Deliver != "" {
			err = store.Delivered(n.Deliver, a)
		} else {
			err = store.Has(a)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// suspect checks whether a failed node had a damaged input, and adds that to the error.
// The check drops a damaged artifact, so the next build makes it again.
func (b *build) suspect(v *vertex, err error) error {
	if b.ctx.Err() != nil {
		return err
	}
	for i, in := range v.node.Inputs {
		if verr := b.Store.Verify(v.inputs[i].outputs[in.Output].Digest); verr != nil {
			err = hint.Add(fmt.Errorf("%w; its input %s: %w", err, in.Node.Name, verr), "build again: that makes the input again")
		}
	}
	return err
}

// describe adds the log to an error: its last lines, and the path of a copy in the store.
func (b *build) describe(v *vertex, log string, lines *lineWriter, err error) error {
	if fi, serr := os.Stat(log); serr != nil || fi.Size() == 0 {
		return err
	}
	le := &loggedError{err: err, tail: lines.tail()}
	if a, perr := b.Store.Put(context.WithoutCancel(b.ctx), log); perr == nil {
		le.log = b.Store.Path(a.Digest)
	}
	return le
}

// loggedError carries a failed node's log from the goroutine of the node to the loop,
// which makes a [NodeError] of it.
type loggedError struct {
	err  error
	log  string
	tail []string
}

func (e *loggedError) Error() string { return e.err.Error() }
func (e *loggedError) Unwrap() error { return e.err }

// lineWriter splits its input into lines. It emits each line and remembers the last ones.
type lineWriter struct {
	mu   sync.Mutex
	part bytes.Buffer
	last []string
	emit func(string)
}

// maxLine is the number of bytes from which the rest of a line may be dropped.
const maxLine = 4096

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		line, rest, ok := bytes.Cut(p, []byte{'\n'})
		if w.part.Len() < maxLine {
			w.part.Write(line)
		}
		p = rest
		if ok {
			w.end()
		}
	}
	return n, nil
}

func (w *lineWriter) end() {
	line := strings.ToValidUTF8(strings.TrimRight(w.part.String(), "\r"), "\uFFFD")
	w.part.Reset()
	if len(w.last) == logTail {
		w.last = w.last[1:]
	}
	w.last = append(w.last, line)
	w.emit(line)
}

func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.part.Len() > 0 {
		w.end()
	}
}

func (w *lineWriter) tail() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.last...)
}
