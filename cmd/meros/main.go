// Command meros builds constellations of virtual machines from manifests and
// boots them. README.md is the introduction, and "meros --help" lists the verbs.
//
// This file is the command line: it parses it, runs the verb and picks the exit code.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"meros/constellations"
	"meros/graph/record"
	"meros/runner"
	"meros/runner/hint"
	"meros/runner/initrd"
	"meros/runner/sandbox"
	"meros/stages/step"
)

// Exit codes. connect and run pass on the status of their program.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2 // the command line or the manifest is wrong
	exitInterrupted = 130
)

func main() {
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is the program. meros also starts itself: as the first process of a guest, as
// the first process of a sandbox, as a stage, and as a supervisor.
func run(args []string, stdout, stderr io.Writer) int {
	umask := syscall.Umask(0o022) // the user's umask must not change what is built
	switch {
	case os.Getpid() == 1 && args[0] == "/init":
		initrd.Main(step.Inside())
		return exitFailed
	case len(args) == 2 && args[1] == runner.SandboxArg:
		sandbox.Main()
		return exitOK
	case len(args) == 3 && args[1] == "stage":
		if err := step.Main(context.Background(), args[2]); err != nil {
			return exitFailed
		}
		return exitOK
	}
	if len(args) == 3 && (args[1] == superviseArg || args[1] == superviseInnerArg) {
		return superviseMain(args, stderr)
	}
	entered, err := sandbox.EnterUserNamespace()
	if err == nil {
		err = sandbox.CloseInherited()
	}
	if err != nil {
		newUI(stdout, stderr, "plain", false).fail(err)
		return exitFailed
	}
	ctx, stop := interruptible()
	defer stop()
	return command(ctx, args[1:], stdout, stderr, entered, umask)
}

// errInterrupted is the cause with which the context ends.
var errInterrupted = errors.New("interrupted")

// interruptible returns a context that the first SIGINT, SIGTERM or SIGHUP ends. The
// second signal kills the process, and the kernel then kills every sandbox.
func interruptible() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	sigs := make(chan os.Signal, 2)
	signal.Notify(sigs, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-sigs
		cancel(errInterrupted)
		<-sigs
		signal.Reset()
		if p, err := os.FindProcess(os.Getpid()); err == nil {
			p.Signal(syscall.SIGKILL)
		}
	}()
	return ctx, func() { signal.Stop(sigs); cancel(nil) }
}

// cli is the command line.
type cli struct {
	Root     string           `help:"Directory that holds constellations/ and data/ (default: the nearest one, from here upwards)." placeholder:"DIR" env:"MEROS_ROOT"`
	Verbose  bool             `short:"v" help:"Show each stage's output and why it runs." env:"MEROS_VERBOSE"`
	Version  kong.VersionFlag `help:"Print the version."`
	Progress string           `help:"How to show progress: ${enum}." enum:"auto,tty,plain,json" default:"auto" env:"MEROS_PROGRESS"`
	Umask    *int             `hidden:"" help:"Umask for the files that the user asked for."`

	KernelBuild kernelBuildCmd `cmd:"" help:"Build a Linux kernel."`
	Build       buildCmd       `cmd:"" help:"Build the images of a constellation."`
	Plan        planCmd        `cmd:"" help:"Show what a build would run, and why."`
	Why         whyCmd         `cmd:"" help:"Explain why stages run, down to the file or package."`
	Graph       graphCmd       `cmd:"" help:"Draw the graph of a build."`
	History     historyCmd     `cmd:"" help:"List recent builds, or the stages of one."`
	Report      reportCmd      `cmd:"" help:"Write a web page about a build: times, reasons, logs and the contents of the images."`
	Diff        diffCmd        `cmd:"" help:"Compare two builds or images: packages, and files by mode, owner, size and content."`
	LogsOf      logsOfCmd      `cmd:"" name:"logs-of" help:"Print the log of a stage."`
	Export      exportCmd      `cmd:"" help:"Write a machine to a file: a disk image, an archive or a container image."`
	Init        initCmd        `cmd:"" aliases:"up" help:"Build and boot a constellation, and wait until its machines are ready."`
	Connect     connectCmd     `cmd:"" help:"Open a shell on a machine, or run a command on it."`
	Run         runCmd         `cmd:"" help:"Run a program on a machine and show its windows here."`
	Push        pushCmd        `cmd:"" help:"Copy files into a machine."`
	Pull        pullCmd        `cmd:"" help:"Copy files out of a machine."`
	Info        infoCmd        `cmd:"" aliases:"ps" help:"Show the state of machines."`
	Shutdown    shutdownCmd    `cmd:"" aliases:"down" help:"Shut down machines and discard their throw-away disks."`
	Restart     restartCmd     `cmd:"" help:"Shut down machines and start them again with their disks."`
	Reset       resetCmd       `cmd:"" help:"Shut down machines and start them again from their images."`
	Snapshot    snapshotCmd    `cmd:"" help:"Save and restore the state of running machines, until they are shut down."`
	Top         topCmd         `cmd:"" help:"Show how much CPU, memory and traffic machines use."`
	Logs        logsCmd        `cmd:"" help:"Print the console output of machines."`
	Console     consoleCmd     `cmd:"" help:"Open the serial console of a machine."`
	View        viewCmd        `cmd:"" help:"Show the screen of a machine."`
	SSHConfig   sshConfigCmd   `cmd:"" name:"ssh-config" help:"Print an ssh configuration for the machines."`
	Lock        lockCmd        `cmd:"" help:"Pin in meros.lock the downloads of a constellation that are not pinned yet."`
	Update      updateCmd      `cmd:"" help:"Pin again, at the versions that the servers have now."`
	New         newCmd         `cmd:"" help:"Create a constellation from a template."`
	Validate    validateCmd    `cmd:"" help:"Check manifests and locks, and list all problems."`
	Doctor      doctorCmd      `cmd:"" help:"Check this host for everything meros needs."`
	Schema      schemaCmd      `cmd:"" help:"Print the JSON Schema of a manifest, for editors."`
	Completion  completionCmd  `cmd:"" help:"Print the completion script for a shell."`
	Complete    completeCmd    `cmd:"" hidden:"" help:"List the completions of a word."`
	Man         manCmd         `cmd:"" help:"Write the manual pages."`
	Kernel      kernelCmd      `cmd:"" help:"Configure and compare kernels."`
	Cache       cacheCmd       `cmd:"" help:"Inspect and clean the cache."`
	Net         netCmd         `cmd:"" help:"Show and check the networks of a constellation."`
	NC          ncCmd          `cmd:"" name:"nc" hidden:"" help:"Pass a connection to a machine to ssh."`
	Demo        demoCmd        `cmd:"" help:"Build and boot the demo constellation, and run uname on it."`
}

// release is the version that a packager sets: -ldflags "-X main.release=1.2".
var release string

// version returns the packager's version, the module's, or the commit.
func version() string {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return "meros " + cmp.Or(release, "(unknown version)")
	}
	return fmt.Sprintf("meros %s (%s, %s/%s)", cmp.Or(release, b.Main.Version, "(devel)"), b.GoVersion, runtime.GOOS, runtime.GOARCH)
}

// env is the environment of a verb.
type env struct {
	ctx context.Context
	project
	ui      *ui
	entered bool     // this process is root of a user namespace that meros made
	globals []string // the flags of all verbs, for another process

	outputMode os.FileMode // of files that the user asked for; the user can read and write them
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// Unwrap returns the error with its hints.
func (e usageError) Unwrap() error { return e.error }

// exitStatus is the status of a program that meros ran for the user.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// command runs a verb. umask is the user's. In a user namespace that meros made,
// --umask replaces it.
func command(ctx context.Context, args []string, stdout, stderr io.Writer, entered bool, umask int) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("meros"),
		kong.Description("Build virtual machines from manifests, cache every stage, and boot groups of machines."),
		kong.Writers(stdout, stderr), kong.Exit(func(code int) { exited = code }), kong.UsageOnError(),
		kong.Vars{"version": version()}, kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		panic(err) // the struct above is wrong
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	kctx, err := parser.Parse(args)
	if exited >= 0 {
		return exited // --help
	}
	u := newUI(stdout, stderr, c.Progress, c.Verbose)
	if err != nil {
		if hint.Of(err) == "" {
			err = hint.Add(err, "`meros --help` lists the verbs and their flags")
		}
		u.fail(err)
		return exitUsage
	}
	if c.Umask != nil {
		umask = *c.Umask
	}
	e := &env{ctx: ctx, ui: u, entered: entered, outputMode: 0o600 | 0o666&^os.FileMode(umask)}
	e.root, err = findRoot(c.Root)
	switch {
	case err == nil:
	case strings.HasPrefix(kctx.Command(), "new ") || kctx.Command() == demo:
		e.root, err = filepath.Abs(kong.ExpandPath(c.Root)) // the verb makes constellations/ there
	case slices.ContainsFunc(rootless, func(v string) bool { return strings.HasPrefix(kctx.Command(), v) }):
		e.root, err = cmp.Or(c.Root, "."), nil
	}
	if err == nil {
		e.globals = []string{"--root=" + e.root, "--progress=" + c.Progress, "--umask=" + strconv.Itoa(umask)}
		if c.Verbose {
			e.globals = append(e.globals, "-v")
		}
		err = kctx.Run(e, parser.Model)
	}
	u.close()
	return exitCode(ctx, u, err)
}

// exitCode is the only place where an error becomes an exit code.
func exitCode(ctx context.Context, u *ui, err error) int {
	var status exitStatus
	var manifest *constellations.Errors
	var usage usageError
	var query record.QueryError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &status):
		return int(status)
	case errors.Is(err, errInterrupted) || errors.Is(context.Cause(ctx), errInterrupted):
		u.interrupted()
		return exitInterrupted
	case errors.As(err, &manifest), errors.As(err, &usage), errors.As(err, &query):
		u.fail(err)
		return exitUsage
	}
	u.fail(err)
	return exitFailed
}

// findRoot returns dir, or the nearest directory from here upwards that holds
// constellations/.
func findRoot(dir string) (string, error) {
	if dir != "" {
		dir = kong.ExpandPath(dir)
		if fi, err := os.Stat(filepath.Join(dir, "constellations")); err != nil || !fi.IsDir() {
			return "", usageError{hint.Add(fmt.Errorf("the root directory %s (--root or MEROS_ROOT) has no directory constellations/", dir), "`meros new NAME` creates the first constellation in it")}
		}
		return dir, nil
	}
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := here; ; d = filepath.Dir(d) {
		if fi, err := os.Stat(filepath.Join(d, "constellations")); err == nil && fi.IsDir() {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", usageError{hint.Add(fmt.Errorf("no directory constellations/ in %s or above it", here), "`meros new NAME` creates the first constellation here; --root DIR names another project")}
		}
	}
}

// inNamespace runs meros with these arguments in a user namespace, where it can make
// sandboxes. Outside, an ordinary user's process cannot map the ids of a root file
// system.
// It returns false if this process can make them.
func (e *env) inNamespace(args ...string) (done bool, err error) {
	if e.entered || os.Geteuid() == 0 {
		return false, nil
	}
	code, err := sandbox.InUserNamespace(e.ctx, append(append([]string(nil), e.globals...), args...))
	if err != nil {
		return true, err
	}
	if code != 0 {
		return true, exitStatus(code)
	}
	return true, nil
}
