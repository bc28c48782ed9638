package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"meros/constellations"
	"meros/runner/vm"
	"meros/stages"
)

type initCmd struct {
	Constellation string        `arg:"" help:"Name of a directory below constellations/."`
	Machine       []string      `arg:"" optional:"" help:"Only these machines."`
	Wait          time.Duration `default:"5m" help:"Longest a machine may take until ssh answers."`
	Locked        bool          `help:"Fail instead of changing meros.lock."`
	Timeout       time.Duration `help:"Longest time one hook may take."`
	Use           givenImage    `placeholder:"IMAGE" help:"Boot the one machine from this image, which is never written to, instead of a base system."`

	again vm.Again
}

// Run implements the verb.
func (c *initCmd) Run(e *env) error {
	_, err := c.up(e)
	return err
}

// up builds what is missing and boots. An ordinary user builds in a user
// namespace and boots outside of it, where /dev/kvm and the network are.
func (c *initCmd) up(e *env) (*vm.Group, error) {
	if err := c.withDependencies(e); err != nil {
		return nil, err
	}
	b := &buildCmd{Constellation: c.Constellation, Machine: c.Machine, Locked: c.Locked, Timeout: c.Timeout, Use: c.Use, ToRun: true}
	m, chosen, err := b.load(e)
	if err == nil {
		err = canRun(e, m, chosen) // before all of it is built
	}
	if err != nil {
		return nil, err
	}
	// What the build in the namespace made is only looked up here.
	again, err := e.inNamespace(b.args()...)
	if err != nil {
		return nil, err
	}
	b.quiet = again
	done, err := b.build(e)
	if err != nil {
		return nil, err
	}
	defer done.close() // the machines' records say then what they need
	machines, err := bootable(e, done)
	if err != nil {
		return nil, err
	}
	for _, m := range machines {
		m.Again = c.again
	}
	networks, err := newNetworks(done.manifest)
	if err != nil {
		return nil, err
	}
	g := group(e, done.manifest.Name)
	unlock, err := g.Lock(e.ctx, func() { e.ui.note("waiting: another meros starts or stops machines of %s", g.Name) })
	if err != nil {
		return nil, err
	}
	defer unlock()
	supervisor, err := supervisorOf(g)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	err = g.Bring(e.ctx, supervisor, networks, machines, vm.UpOptions{
		Patience: c.Wait,
		Note: func(machine, text string) {
			if machine == "" {
				e.ui.note("%s: %s", g.Name, text)
				return
			}
			e.ui.note("%s/%s %s", g.Name, machine, text)
		},
		Report: func(machine string) {
			e.ui.note("%s/%s ready after %s (meros connect %s %s)", g.Name, machine, seconds(time.Since(start)), g.Name, machine)
		},
	})
	return g, err
}

// withDependencies adds the machines that the named ones depend on and that do
// not run.
func (c *initCmd) withDependencies(e *env) error {
	if len(c.Machine) == 0 || c.Use != "" || c.again != vm.Leave {
		return nil
	}
	m, err := constellations.Find(e.root, c.Constellation)
	if err != nil {
		return usageIfMissing(err)
	}
	for i := 0; i < len(c.Machine); i++ {
		machine, err := m.Machine(c.Machine[i])
		if err != nil {
			return usageError{err}
		}
		for _, d := range machine.DependsOn {
			if slices.Contains(c.Machine, d) {
				continue
			}
			is, err := group(e, m.Name).Info(e.ctx, []string{d})
			if err != nil {
				return err
			}
			if is[0].PID == 0 {
				e.ui.note("%s/%s depends on %s, which is started, too", m.Name, machine.Name, d)
				c.Machine = append(c.Machine, d)
			}
		}
	}
	return nil
}

// group is where a constellation's machines are.
func group(e *env, name string) *vm.Group {
	data := filepath.Join(e.root, "data")
	return &vm.Group{Name: name, State: filepath.Join(data, "state", name), Keys: filepath.Join(data, "ssh", name), SSH: filepath.Join(data, "ssh", "id_ed25519")}
}

// known is a constellation as its manifest says or, where that cannot be read,
// as its machines were started: a mistake in a file, or a new name of a
// directory, is no reason not to reach them.
func known(e *env, name string) (*constellations.Manifest, *vm.Group, error) {
	m, err := constellations.Find(e.root, name)
	if err == nil || !constellations.IsName(name) {
		return m, group(e, name), usageIfMissing(err)
	}
	g := group(e, name)
	machines, merr := g.Machines()
	if merr != nil || len(machines) == 0 {
		return nil, nil, usageIfMissing(err)
	}
	e.ui.note("%s: its machines are told by their records, for its manifest is of no use: %s", name, printable(err.Error()))
	m = &constellations.Manifest{Name: name}
	for _, n := range machines {
		m.Machines = append(m.Machines, constellations.Machine{Name: n})
	}
	return m, g, nil
}

// constellationsOf are those with a manifest, and those without that have machines.
func constellationsOf(e *env) ([]string, error) {
	names, err := constellations.List(e.root)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(e.root, "data/state"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, d := range entries {
		if !d.IsDir() || !constellations.IsName(d.Name()) || slices.Contains(names, d.Name()) {
			continue
		}
		machines, err := group(e, d.Name()).Machines()
		if err != nil {
			return nil, err
		}
		if len(machines) > 0 {
			names = append(names, d.Name())
		}
	}
	return names, nil
}

// groupOf is where a machine of a constellation is.
func groupOf(e *env, constellation, machine string) (*vm.Group, error) {
	m, g, err := known(e, constellation)
	if err != nil {
		return nil, err
	}
	if _, err := selectMachines(m, []string{machine}); err != nil {
		return nil, err
	}
	return g, nil
}

type connectCmd struct {
	Constellation string   `arg:"" help:"Name of the constellation."`
	Machine       string   `arg:"" help:"Name of the machine."`
	Agent         bool     `short:"A" help:"Let the machine use your ssh agent."`
	Command       []string `arg:"" optional:"" passthrough:"" help:"What to run there, after --: one word is a line for the shell, several are kept as they are. Its exit status becomes that of meros."`
}

// Run implements the verb: it becomes ssh(1).
func (c *connectCmd) Run(e *env) error {
	g, err := groupOf(e, c.Constellation, c.Machine)
	if err != nil {
		return err
	}
	command := c.Command
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	var more []string
	if c.Agent {
		more = []string{"-A", "-o", "IdentityAgent=SSH_AUTH_SOCK", "-o", "ControlPath=none"}
	}
	through, err := proxy(e, g.Name, c.Machine)
	if err != nil {
		return err
	}
	argv, err := g.ConnectArgv(c.Machine, through, more, command)
	if err != nil {
		return err
	}
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("%w (Debian: apt install openssh-client)", err)
	}
	e.ui.close()
	return fmt.Errorf("start %s: %w", program, syscall.Exec(program, argv, os.Environ()))
}

type infoCmd struct {
	Constellation string `arg:"" optional:"" help:"Name of the constellation; default: all."`
	JSON          bool   `name:"json" help:"Print a JSON array of objects."`
}

// Run implements the verb.
func (c *infoCmd) Run(e *env) error {
	which := []string{c.Constellation}
	if c.Constellation == "" {
		var err error
		if which, err = constellationsOf(e); err != nil {
			return err
		}
	}
	var all []vm.Status
	var machines []*constellations.Machine
	var unknown []error // the others are told of none the less
	for _, name := range which {
		m, g, err := known(e, name)
		if err != nil {
			unknown = append(unknown, err)
			continue
		}
		ms, err := withForgotten(m, g, nil)
		if err != nil {
			return err
		}
		ss, err := g.Info(e.ctx, names(ms))
		if err != nil {
			return err
		}
		for i := range ss {
			ss[i].Constellation = m.Name
			if m.Dir == "" { // nobody knows what is in its manifest
				ms[i].CPUs = ss[i].CPUs
			}
		}
		all, machines = append(all, ss...), append(machines, ms...)
	}
	if c.JSON {
		return errors.Join(append(unknown, e.sayJSON(all))...)
	}
	for i, s := range all {
		name := s.Machine
		if c.Constellation == "" {
			name = s.Constellation + "/" + s.Machine
		}
		e.ui.say("%-15s %-12s %s", name, s.State, describe(machines[i], s))
		for _, l := range s.Tail {
			e.ui.say("  | %s", printable(l))
		}
	}
	return errors.Join(unknown...)
}

// names are those of the machines.
func names(machines []*constellations.Machine) []string {
	var all []string
	for _, m := range machines {
		all = append(all, m.Name)
	}
	return all
}

// withForgotten are the named machines, or all: those of the manifest, and
// those that run but are in it no more.
func withForgotten(m *constellations.Manifest, g *vm.Group, names []string) ([]*constellations.Machine, error) {
	running, err := g.Machines()
	if err != nil {
		return nil, err
	}
	known := *m
	known.Machines = slices.Clone(m.Machines)
	for _, n := range running {
		if _, err := m.Machine(n); err != nil {
			known.Machines = append(known.Machines, constellations.Machine{Name: n})
		}
	}
	return selectMachines(&known, names)
}

// describe is the rest of a machine's line.
func describe(m *constellations.Machine, s vm.Status) string {
	parts := []string{}
	if s.PID != 0 {
		parts = append(parts, fmt.Sprintf("pid %d, up %s", s.PID, time.Since(s.Started).Round(time.Second)))
	}
	if s.Exit != "" {
		parts = append(parts, s.Exit)
	}
	if s.Ready > 0 && s.PID != 0 {
		parts = append(parts, fmt.Sprintf("ready after %.1f s", s.Ready))
	}
	if m.CPUs == 0 {
		parts = append(parts, "not in the manifest any more")
	}
	cpus, memory := m.CPUs, m.Memory
	if s.CPUs != 0 {
		cpus, memory = s.CPUs, s.Memory
	}
	parts = append(parts, fmt.Sprintf("%d CPUs, %d MiB", cpus, memory>>20))
	if s.Console != "" {
		parts = append(parts, "console "+s.Console)
	}
	return strings.Join(parts, ", ")
}

type shutdownCmd struct {
	Constellation string        `arg:"" help:"Name of the constellation."`
	Machine       []string      `arg:"" optional:"" help:"Only these machines."`
	Wait          time.Duration `default:"60s" help:"How long the power button, and then poweroff over ssh, may take before it gets harder; 0 leaves both out."`
}

// Run implements the verb.
func (c *shutdownCmd) Run(e *env) error {
	m, g, err := known(e, c.Constellation)
	if err != nil {
		return err
	}
	machines, err := withForgotten(m, g, c.Machine)
	if err != nil {
		return err
	}
	return shutdown(e, g, machines, c.Wait)
}

func shutdown(e *env, g *vm.Group, machines []*constellations.Machine, patience time.Duration) error {
	if err := os.MkdirAll(filepath.Join(e.root, "data"), 0o755); err != nil {
		return err
	}
	unlock, err := g.Lock(e.ctx, func() { e.ui.note("waiting: another meros starts or stops machines of %s", g.Name) })
	if err != nil {
		return err
	}
	defer unlock()
	ways := map[string]string{
		"": "was not running", "acpi": "shut down by its power button", "ssh": "shut down by poweroff over ssh",
		"quit": "did not react; its QEMU was told to end", "kill": "did not react; its QEMU was killed",
	}
	err = g.Shutdown(e.ctx, names(machines), patience, func(d vm.Down) {
		e.ui.note("%s/%s %s%s", g.Name, d.Machine, ways[d.Way], took(d))
	})
	if e.ctx.Err() != nil {
		return context.Cause(e.ctx)
	}
	return err
}

func took(d vm.Down) string {
	if d.Way == "" {
		return ""
	}
	return fmt.Sprintf(" (%s)", seconds(d.Took))
}

type demoCmd struct {
	Keep bool `help:"Leave the machine running."`
}

// demo is the constellation of the README.
const demo = "demo"

// Run implements the verb: build, boot, ask the machine who it is, end it.
func (c *demoCmd) Run(e *env) error {
	if !isConstellation(e, demo) {
		if err := (&newCmd{Name: demo, From: "debian"}).Run(e); err != nil {
			return err
		}
	}
	g, err := (&initCmd{Constellation: demo, Wait: stages.BootTimeout}).up(e)
	if err != nil {
		return err
	}
	m, err := constellations.Find(e.root, demo)
	if err != nil {
		return err
	}
	for _, vmachine := range m.Machines {
		through, err := proxy(e, m.Name, vmachine.Name)
		if err != nil {
			return err
		}
		argv, err := g.ConnectArgv(vmachine.Name, through, nil, []string{"uname -a"})
		if err != nil {
			return err
		}
		out, err := exec.CommandContext(e.ctx, argv[0], argv[1:]...).Output()
		if err != nil {
			return fmt.Errorf("ask %s who it is: %w", vmachine.Name, err)
		}
		e.ui.say("%s", strings.TrimSpace(string(out)))
	}
	if c.Keep {
		e.ui.note("it runs on: meros connect %s %s opens a shell, meros shutdown %s ends it", demo, m.Machines[0].Name, demo)
		return nil
	}
	all, err := selectMachines(m, nil)
	if err != nil {
		return err
	}
	return shutdown(e, g, all, time.Minute)
}
