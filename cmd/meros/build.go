package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"meros/cache"
	"meros/constellations"
	"meros/graph"
	"meros/runner"
	"meros/runner/layer"
	"meros/stages"
)

type buildCmd struct {
	Constellation string        `arg:"" help:"Name of a directory below constellations/."`
	Machine       []string      `arg:"" optional:"" help:"Only these machines."`
	RootfsOnly    bool          `help:"Build the disk images only, no kernel and no initrd."`
	Boot          bool          `help:"Boot each built machine once and keep the verdict."`
	Locked        bool          `help:"Fail instead of changing meros.lock."`
	Timeout       time.Duration `help:"Longest time one hook may take (such as 10m; default: no limit)."`
	Use           string        `placeholder:"IMAGE" help:"Make the one machine of this image, which is never written to, instead of a base system."`
	Check         bool          `help:"Then build all of it again, in fresh directories, and compare: what does not give the same bytes is named."`
	KeepGoing     bool          `short:"k" help:"After a failure, build what does not depend on it."`
	Rebuild       string        `placeholder:"STAGE" help:"Run the stages with this in their names again, although the cache has what they give."`
	ShellOnError  bool          `help:"If a stage fails, run it once more and open a shell inside it, where it fails."`
	Jobs          int           `short:"j" help:"CPU tokens (default: one for each CPU)."`

	quiet   bool // say nothing unless something has to be done
	advised bool // of packages that an image does not get
}

func (c *buildCmd) args() []string {
	a := append([]string{"build", c.Constellation}, c.Machine...)
	for flag, on := range map[string]bool{"--rootfs-only": c.RootfsOnly, "--boot": c.Boot, "--locked": c.Locked, "--check": c.Check, "--keep-going": c.KeepGoing, "--shell-on-error": c.ShellOnError} {
		if on {
			a = append(a, flag)
		}
	}
	if c.Timeout > 0 {
		a = append(a, "--timeout="+c.Timeout.String())
	}
	if c.Use != "" {
		a = append(a, "--use="+c.Use)
	}
	if c.Jobs > 0 {
		a = append(a, fmt.Sprint("--jobs=", c.Jobs))
	}
	if c.Rebuild != "" {
		a = append(a, "--rebuild="+c.Rebuild)
	}
	return a
}

// Run implements the verb.
func (c *buildCmd) Run(e *env) error {
	if c.ShellOnError && !(term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd()))) {
		return usageError{errors.New("--shell-on-error needs a terminal")}
	}
	if _, _, err := c.load(e); err != nil {
		return err // before anything is started, and once
	}
	if done, err := e.inNamespace(c.args()...); done {
		return err
	}
	b, err := c.build(e)
	if err == nil {
		b.close()
	}
	return err
}

func (c *buildCmd) load(e *env) (*constellations.Manifest, []*constellations.Machine, error) {
	m, err := constellations.Find(e.root, c.Constellation)
	if err != nil {
		return nil, nil, usageIfMissing(err)
	}
	machines, err := selectMachines(m, c.Machine)
	if err == nil && c.Use != "" {
		err = c.useImage(e, machines)
	}
	return m, machines, err
}

// useImage makes the image the machine's base.
func (c *buildCmd) useImage(e *env, machines []*constellations.Machine) error {
	if len(machines) != 1 {
		return usageError{fmt.Errorf("--use is for one machine, and these are %d (name one)", len(machines))}
	}
	path, container := strings.CutPrefix(c.Use, stages.OCIPrefix)
	if fi, err := os.Stat(path); !container && (err != nil || !fi.Mode().IsRegular()) {
		return usageError{fmt.Errorf("--use %s: there is no such image", c.Use)}
	}
	file, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if container {
		file = stages.OCIPrefix + file
	}
	if len(machines[0].Packages) > 0 && !e.entered && !c.advised {
		c.advised = true
		e.ui.note("the manifest's packages are not installed into %s: it has its own", c.Use)
	}
	c.Use = file       // the namespace's process may be elsewhere
	vm := *machines[0] // the manifest stays what it is: its lock is kept by it
	vm.Base, vm.BaseSHA256, vm.Packages = file, "", nil
	machines[0] = &vm
	return nil
}

// selectMachines finds the named machines, or takes all.
func selectMachines(m *constellations.Manifest, names []string) ([]*constellations.Machine, error) {
	var ms []*constellations.Machine
	for _, n := range names {
		vm, err := m.Machine(n)
		if err != nil {
			return nil, usageError{err}
		}
		ms = append(ms, vm)
	}
	if len(names) == 0 {
		for i := range m.Machines {
			ms = append(ms, &m.Machines[i])
		}
	}
	return ms, nil
}

func usageIfMissing(err error) error {
	if errs := (*constellations.Errors)(nil); errors.As(err, &errs) {
		return err
	}
	return usageError{err}
}

// built is what a build leaves for the verbs that go on from it.
type built struct {
	manifest *constellations.Manifest
	machines []*stages.Machine
	result   *graph.Result
	store    *cache.Store
	close    func() // until then what was built is not collected
}

// build does the work of the verb.
func (c *buildCmd) build(e *env) (b *built, err error) {
	m, machines, err := c.load(e)
	if err != nil {
		return nil, err
	}
	if err := diskCollision(e, m, machines); err != nil {
		return nil, err
	}
	w, err := openWorkplace(e)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	lock, err := ensureLock(e, m, stages.Needs(machines), c.Locked)
	if err != nil {
		return nil, err
	}
	plan := new(graph.Plan)
	o, err := w.options(e, m, machines, c.Boot)
	if err != nil {
		return nil, err
	}
	o.RootfsOnly, o.Boot = c.RootfsOnly, c.Boot
	if c.Timeout > 0 {
		o.Timeout = c.Timeout.String()
	}
	planned, err := stages.Plan(plan, m, machines, lock, o)
	if err != nil {
		return nil, err
	}
	var targets []*graph.Node
	for _, pm := range planned {
		targets = append(targets, pm.Targets()...)
	}
	x := execution{name: m.Name, verb: "build", jobs: c.Jobs, keepGoing: c.KeepGoing, quiet: c.quiet}
	if c.Rebuild != "" {
		if x.rerun, err = c.rerun(plan); err != nil {
			return nil, err
		}
	}
	if c.RootfsOnly {
		x.verb = "build --rootfs-only"
	}
	for _, pm := range planned {
		x.machines = append(x.machines, pm.Name)
	}
	r, err := w.execute(e, plan, targets, x)
	if ne := (*graph.NodeError)(nil); c.ShellOnError && errors.As(err, &ne) && e.ctx.Err() == nil {
		e.ui.fail(err)
		if err := w.shell(e, plan, ne.Node); err != nil {
			e.ui.fail(err)
		}
		return nil, exitStatus(exitFailed)
	}
	if err != nil {
		return nil, err
	}
	adviseHooks(e, planned, r)
	if c.Check {
		if err := w.check(e, plan, targets, r, c.Jobs); err != nil {
			return nil, err
		}
	}
	return &built{m, planned, r, w.store, w.close}, nil
}

// rerun finds the stages to run again.
func (c *buildCmd) rerun(plan *graph.Plan) (func(*graph.Node) bool, error) {
	asked := func(n *graph.Node) bool { return n.Fixed == nil && strings.Contains(n.Name, c.Rebuild) }
	if !slices.ContainsFunc(plan.Nodes, asked) {
		return nil, usageError{fmt.Errorf("no stage has %q in its name (meros plan -v %s lists them)", c.Rebuild, c.Constellation)}
	}
	return asked, nil
}

// diskCollision finds a machine of another constellation whose disk would be
// the same file: a-b of c, and b-c of a, are both a-b-c.
func diskCollision(e *env, m *constellations.Manifest, machines []*constellations.Machine) error {
	for _, vm := range machines {
		whole := m.Name + "-" + vm.Name
		for i, c := range whole {
			other := whole[:i]
			if c != '-' || other == m.Name || !isConstellation(e, other) {
				continue
			}
			o, err := constellations.Find(e.root, other)
			if err != nil {
				continue // its own build tells
			}
			if _, err := o.Machine(whole[i+1:]); err == nil {
				return usageError{fmt.Errorf("%s/%s and %s/%s would have one disk, data/disks/%s.qcow2 (rename one of them)", m.Name, vm.Name, other, whole[i+1:], whole)}
			}
		}
	}
	return nil
}

// options are those of a plan for the machines, on this host.
func (w *workplace) options(e *env, m *constellations.Manifest, machines []*constellations.Machine, boot bool) (stages.Options, error) {
	self, err := os.Executable()
	return stages.Options{
		Root: e.root, Self: self, Host: runner.HostArch(), OCI: openOCI, Tools: stages.ToolIdentities(machines, boot, w.memo), URLs: newMirrors(m).urls, Memo: w.memo,
	}, err
}

// sameProgram makes sure that what ran is this program: one that was installed
// in its place meanwhile would have other stages.
func sameProgram(run func(context.Context, runner.Spec, runner.Stdio) error) func(context.Context, runner.Spec, runner.Stdio) error {
	return func(ctx context.Context, s runner.Spec, stdio runner.Stdio) error {
		if err := run(ctx, s, stdio); err != nil {
			return err
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		now, err := os.Stat(self)
		if err != nil {
			return fmt.Errorf("%w: it was replaced while it ran (build again)", err)
		}
		if then, err := os.Stat("/proc/self/exe"); err != nil || !os.SameFile(now, then) {
			return fmt.Errorf("%s was replaced while it ran (build again)", self)
		}
		return nil
	}
}

// execution is how a plan is built.
type execution struct {
	name      string   // of what is built, for people
	verb      string   // what the history calls it; "" is not remembered
	machines  []string // that are built, for the history
	jobs      int      // CPU tokens; 0 is one for each CPU
	keepGoing bool
	quiet     bool                   // say nothing unless something had to be done
	rerun     func(*graph.Node) bool // what the cache is not asked for; may be nil
}

// execute builds the targets of a plan and tells what came of it.
func (w *workplace) execute(e *env, plan *graph.Plan, targets []*graph.Node, x execution) (*graph.Result, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if x.jobs == 0 {
		x.jobs = runtime.NumCPU()
	}
	var foreseen []graph.Foresight
	if e.ui.mode == "tty" {
		foreseen = graph.Foresee(plan, targets, w.store)
	}
	e.ui.begin(x.quiet, foreseen, w.history, x.jobs)
	defer e.ui.end()
	rec := newRecorder()
	observe := func(ev graph.Event) {
		rec.event(ev)
		e.ui.event(ev)
	}
	r, err := graph.Build(e.ctx, plan, targets, graph.Options{
		Store: w.store, Runner: &graph.Sandboxed{Self: self, Run: sameProgram(runner.Run), Watch: watch, Env: new(servers).env}, Unpack: layer.Unpack, Scratch: w.scratch.Dir(),
		Budget: graph.Budget{CPU: x.jobs, Memory: memoryAvailable(), Downloads: 8}, History: w.history, Observe: observe, KeepGoing: x.keepGoing, Rerun: x.rerun,
	})
	w.remember(r, x.name)
	defer w.makeRoom(e, r)
	if x.verb != "" {
		if err := recordsOf(e.root).keep(rec.record(plan, r, x, err), func(b *buildRecord) { rec.stages(plan, targets, r, b) }); err != nil {
			e.ui.note("the build is not remembered, and cache gc does not know of its images: %v", err)
		}
	}
	if changed := (*graph.ChangedError)(nil); errors.As(err, &changed) {
		os.Remove(w.memoFile()) // should it be what was wrong
	}
	if err != nil {
		return nil, err
	}
	if !x.quiet || r.Ran > 0 {
		e.ui.note("built %s: %d stages, %d cached, %d run, %.1f s", x.name, r.Nodes, r.Cached, r.Ran, r.Elapsed.Seconds())
	}
	return r, nil
}

// memoryAvailable is what may be used without swapping, proc_meminfo(5), in
// bytes; 0 if it is not known.
func memoryAvailable() int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// watch takes a stage's output apart into its log and its progress.
func watch(j *graph.Job) runner.Stdio {
	w := &progressFilter{job: j}
	return runner.Stdio{Stdout: w, Stderr: w}
}

// maxLogLine is where a line of a stage's output is cut, bytes: who never ends
// one must not fill the memory.
const maxLogLine = 64 << 10

type progressFilter struct {
	job  *graph.Job
	part []byte
}

// Write implements io.Writer. Both streams of a process share it, and
// os/exec then writes from one goroutine.
func (w *progressFilter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, ok := bytes.Cut(p, []byte{'\n'})
		w.part = append(w.part, line...)
		p = rest
		if !ok && len(w.part) < maxLogLine {
			break
		}
		if mark, found := bytes.CutPrefix(w.part, []byte(progressMark)); found {
			var done, total int64
			if k, _ := fmt.Sscanf(string(mark), "%d;%d", &done, &total); k == 2 {
				w.job.Report(done, total)
			}
		} else if _, err := w.job.Log.Write(append(w.part, '\n')); err != nil {
			return 0, err
		}
		w.part = w.part[:0]
	}
	return n, nil
}

// workplace is the data directory, opened for building.
type workplace struct {
	data    string
	store   *cache.Store
	scratch *cache.Scratch
	memo    *graph.Memo
	history graph.History
}

func openWorkplace(e *env) (*workplace, error) {
	w := &workplace{data: filepath.Join(e.root, "data")}
	hint := func(err error) error {
		return fmt.Errorf("%w (the data directory must be writable; --root DIR chooses another)", err)
	}
	build := filepath.Join(w.data, "build")
	if err := os.MkdirAll(filepath.Join(w.data, "cache", "partial"), 0o755); err != nil {
		return nil, hint(err)
	}
	// In them are the programs of guests, setuid ones among them, and their
	// shadow files: nobody else's to run or to read.
	for _, d := range []string{build, filepath.Join(w.data, "cache")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, hint(err)
		}
		if err := os.Chmod(d, 0o700); err != nil {
			return nil, hint(err)
		}
	}
	if n, err := cache.Reclaim(build); err != nil {
		e.ui.note("what a killed build left behind could not be removed: %v", err)
	} else if n > 0 {
		e.ui.note("removed what %d killed builds had left behind", n)
	}
	var err error
	if w.store, err = cache.Open(filepath.Join(w.data, "cache"), cache.Options{}); err != nil {
		return nil, hint(err)
	}
	if w.scratch, err = w.store.NewScratch(build); err != nil {
		return nil, hint(err)
	}
	w.readMemory()
	return w, nil
}

func (w *workplace) memoFile() string    { return filepath.Join(w.data, "cache", "memo") }
func (w *workplace) historyFile() string { return filepath.Join(w.data, "cache", "durations.json") }

// remember keeps what helps the next build and costs nothing to lose.
func (w *workplace) remember(r *graph.Result, of string) {
	w.memo.Write(w.memoFile())
	w.rememberLast(r, of, time.Now())
	for _, outputs := range r.Outputs {
		w.store.Use(outputs)
	}
	if len(r.Durations) == 0 {
		return
	}
	for n, d := range r.Durations {
		w.history[n] = d
	}
	if b, err := json.Marshal(w.history); err == nil {
		tmp := filepath.Join(w.scratch.Dir(), "durations.json")
		if os.WriteFile(tmp, b, 0o644) == nil {
			os.Rename(tmp, w.historyFile())
		}
	}
}

func (w *workplace) close() { w.scratch.Close() }
