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
)

// Runner does what a job says and leaves each output as a regular file in
// job.Out, or as an error. A fake one proves the scheduling in tests.
type Runner interface {
	RunJob(ctx context.Context, job *Job) error
}

// Job is a node about to run, its inputs at hand.
type Job struct {
	Node   *Node
	Inputs []JobInput // as Node.Inputs
	Out    string     // directory for the outputs
	Work   string     // directory for anything else; removed afterwards
	CPU    int        // tokens it may use
	Log    io.Writer
	Report func(done, total int64)

	Token   string // begins the messages of the job's process in its output; "" if nobody reads them
	Failure error  // the reason that the process gave for its failure, if it gave one
}

// JobInput is an input where it can be read.
type JobInput struct {
	Path     string
	Artifact cache.Artifact
}

// treeSuffix marks a directory in Job.Out: OUTPUT.tree is what unpacking
// OUTPUT gives, kept so that nobody need unpack it.
const treeSuffix = ".tree"

// logTail is how many last lines of a failed node's log an error carries.
const logTail = 20

// run executes v and stores what it gave.
func (b *build) run(v *vertex) (e *cache.Entry, err error) {
	dir, err := os.MkdirTemp(b.Scratch, "node-*")
	if err != nil {
		return nil, fmt.Errorf("make a work directory: %w", err)
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
		err = b.keep(v, job, e)
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

// ChangedError says that a local input is not what its key says: it was edited
// meanwhile, or a stat cache was wrong.
type ChangedError struct{ Path string }

func (e *ChangedError) Error() string { return e.Path + " was changed while it was read (build again)" }

// unchanged makes sure that the node's local inputs still are what its key
// says: of a file that was edited while the node ran, nobody knows which state
// is in the outputs.
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

// materialize gives each input the form it is wanted in.
func (b *build) materialize(v *vertex) ([]JobInput, error) {
	inputs := make([]JobInput, len(v.inputs))
	for i, in := range v.node.Inputs {
		a, ok := v.inputs[i].outputs[in.Output]
		if !ok {
			return nil, fmt.Errorf("%s gave no output %q", in.Node.Name, in.Output)
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

// keep stores the job's outputs.
func (b *build) keep(v *vertex, job *Job, e *cache.Entry) error {
	e.Outputs = make(map[string]cache.Artifact, len(v.node.Outputs))
	for _, name := range v.node.Outputs {
		file := filepath.Join(job.Out, name)
		fi, err := os.Lstat(file)
		if err != nil {
			return fmt.Errorf("output %s is missing although the stage succeeded", name)
		}
		if !fi.Mode().IsRegular() {
			return fmt.Errorf("output %s is no regular file", name)
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
			return fmt.Errorf("output %s is %s with %d bytes, but %s with %d was asked for", name, a.Digest, a.Size, want.Digest, want.Size)
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

// present tells whether v's outputs are where they belong.
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

// suspect looks whether a node failed because of a damaged input, which is then
// gone: the next build makes it again.
func (b *build) suspect(v *vertex, err error) error {
	if b.ctx.Err() != nil {
		return err
	}
	for i, in := range v.node.Inputs {
		if verr := b.Store.Verify(v.inputs[i].outputs[in.Output].Digest); verr != nil {
			err = fmt.Errorf("%w (what %s made: %w; build again)", err, in.Node.Name, verr)
		}
	}
	return err
}

// describe adds the log to an error: its tail, and a copy that outlives the
// work directory.
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

// loggedError carries a failed node's log from the goroutine that ran it to
// the [NodeError] that the loop makes.
type loggedError struct {
	err  error
	log  string
	tail []string
}

func (e *loggedError) Error() string { return e.err.Error() }
func (e *loggedError) Unwrap() error { return e.err }

// lineWriter cuts what is written to it into lines, and keeps the last ones.
type lineWriter struct {
	mu   sync.Mutex
	part bytes.Buffer
	last []string
	emit func(string)
}

// maxLine bounds what is held of a line without an end.
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
