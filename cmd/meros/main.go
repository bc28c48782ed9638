// Command meros builds constellations of virtual machines from manifests and
// boots them. README.md shows how it is used, "meros --help" what it can do.
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
	"meros/runner/initrd"
	"meros/runner/sandbox"
	"meros/stages/step"
)

// Exit codes. A program that was connected to or run passes its own through.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2 // the command line or the manifest is wrong
	exitInterrupted = 130
)

func main() {
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is the program. The first calls are those by which it starts itself
// anew: as the first process of a guest, as that of a sandbox, as a stage.
func run(args []string, stdout, stderr io.Writer) int {
	umask := syscall.Umask(0o022) // the user's own would be seen in what is built
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
		fmt.Fprintln(stderr, "meros:", err)
		return exitFailed
	}
	ctx, stop := interruptible()
	defer stop()
	return command(ctx, args[1:], stdout, stderr, entered, umask)
}

// errInterrupted is the cause with which the context ends.
var errInterrupted = errors.New("interrupted")

// interruptible is a context that the first SIGINT, SIGTERM or SIGHUP ends;
// the second ends the process, and with it, by the kernel, every sandbox.
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
	Root     string           `help:"Directory that holds constellations/ and data/ (default: the nearest one upwards)." placeholder:"DIR" env:"MEROS_ROOT"`
	Verbose  bool             `short:"v" help:"Show each stage's output and why it runs." env:"MEROS_VERBOSE"`
	Version  kong.VersionFlag `help:"Print the version."`
	Progress string           `help:"How to show progress: ${enum}." enum:"auto,tty,plain,json" default:"auto" env:"MEROS_PROGRESS"`
	Umask    *int             `hidden:"" help:"The user's umask, of files that are made for the user."`

	KernelBuild kernelBuildCmd `cmd:"" help:"Build a Linux kernel."`
	Build       buildCmd       `cmd:"" help:"Build the images of a constellation."`
	Plan        planCmd        `cmd:"" help:"Show what a build would do, and why, without doing it."`
	Why         whyCmd         `cmd:"" help:"Explain what made stages run, down to the file or package."`
	Graph       graphCmd       `cmd:"" help:"Draw what a build is made of."`
	History     historyCmd     `cmd:"" help:"Show the builds that are remembered, or the stages of one."`
	Report      reportCmd      `cmd:"" help:"Write a page about a build: what ran when and why, logs, and all that the images are made of."`
	Diff        diffCmd        `cmd:"" help:"Show what differs between two builds or images: packages, and files by mode, owner, size and content."`
	LogsOf      logsOfCmd      `cmd:"" name:"logs-of" help:"Print what a stage of a build wrote."`
	Export      exportCmd      `cmd:"" help:"Put a machine into a file: a disk image, an archive or an image of a container."`
	Init        initCmd        `cmd:"" aliases:"up" help:"Boot a constellation, building what is missing, and wait until ssh answers."`
	Connect     connectCmd     `cmd:"" help:"Open a shell on a machine, or run a command there."`
	Run         runCmd         `cmd:"" help:"Run a program of a machine, its windows shown here."`
	Push        pushCmd        `cmd:"" help:"Copy files into a machine."`
	Pull        pullCmd        `cmd:"" help:"Copy files out of a machine."`
	Info        infoCmd        `cmd:"" aliases:"ps" help:"Show how the machines of a constellation are, or of all."`
	Shutdown    shutdownCmd    `cmd:"" aliases:"down" help:"Shut down a constellation's machines. What they wrote to their first disk is dropped; restart keeps it."`
	Restart     restartCmd     `cmd:"" help:"Shut down machines and start them with the disks they had."`
	Reset       resetCmd       `cmd:"" help:"Shut down machines and start them from their images."`
	Snapshot    snapshotCmd    `cmd:"" help:"Save the state of running machines, and go back to it, until they are shut down."`
	Top         topCmd         `cmd:"" help:"Show what running machines use of this host."`
	Logs        logsCmd        `cmd:"" help:"Show what machines wrote to their consoles."`
	Console     consoleCmd     `cmd:"" help:"Use a machine's serial console."`
	View        viewCmd        `cmd:"" help:"Show the screen of a machine that has a display."`
	SSHConfig   sshConfigCmd   `cmd:"" name:"ssh-config" help:"Print a configuration of ssh for the machines."`
	Lock        lockCmd        `cmd:"" help:"Pin the packages of a constellation in meros.lock, if they are not."`
	Update      updateCmd      `cmd:"" help:"Pin the packages anew, at what the archive has now."`
	New         newCmd         `cmd:"" help:"Make a constellation to begin with."`
	Validate    validateCmd    `cmd:"" help:"Read manifests and locks, and tell all that is wrong with them."`
	Doctor      doctorCmd      `cmd:"" help:"Look whether this host has all that meros needs, and say what does not work without it."`
	Schema      schemaCmd      `cmd:"" help:"Print the JSON Schema of a manifest, for editors."`
	Completion  completionCmd  `cmd:"" help:"Print the completions for a shell."`
	Complete    completeCmd    `cmd:"" hidden:"" help:"Say what a word of a command line may become."`
	Man         manCmd         `cmd:"" help:"Write the manual pages."`
	Kernel      kernelCmd      `cmd:"" help:"Look at kernels."`
	Cache       cacheCmd       `cmd:"" help:"Look after the cache."`
	Net         netCmd         `cmd:"" help:"Look at the networks of a constellation."`
	NC          ncCmd          `cmd:"" name:"nc" hidden:"" help:"Hand a connection to a machine to ssh."`
	Demo        demoCmd        `cmd:"" help:"Build and boot the demo constellation, and ask it who it is."`
}

// release is the version that a packager gives: -ldflags "-X main.release=1.2".
var release string

// version is the packager's, that of the module, or the commit it was built from.
func version() string {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return "meros " + cmp.Or(release, "(unknown version)")
	}
	return fmt.Sprintf("meros %s (%s, %s/%s)", cmp.Or(release, b.Main.Version, "(devel)"), b.GoVersion, runtime.GOOS, runtime.GOARCH)
}

// env is what every verb works with.
type env struct {
	ctx context.Context
	project
	ui      *ui
	entered bool // this is root of a user namespace of ours
	globals []string

	outputMode os.FileMode // of files that are made for the user, who can always read and write them
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// Unwrap returns the mistake itself, with its hint.
func (e usageError) Unwrap() error { return e.error }

// exitStatus is the status of a program that was run for the user.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// command runs a verb. umask is the user's, but in a user namespace of ours,
// where --umask tells it.
func command(ctx context.Context, args []string, stdout, stderr io.Writer, entered bool, umask int) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("meros"),
		kong.Description("Builds virtual machines from manifests, each phase cached by its content, and boots groups of them."),
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
		u.fail(fmt.Errorf("%w (meros --help)", err))
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
		e.root, err = filepath.Abs(kong.ExpandPath(c.Root)) // the first one
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

// findRoot is dir, or the nearest directory from here upwards that holds
// constellations/.
func findRoot(dir string) (string, error) {
	if dir != "" {
		dir = kong.ExpandPath(dir)
		if fi, err := os.Stat(filepath.Join(dir, "constellations")); err != nil || !fi.IsDir() {
			return "", usageError{fmt.Errorf("the root directory %s (--root or MEROS_ROOT) holds no directory constellations/ (meros new NAME makes the first one in it)", dir)}
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
			return "", usageError{fmt.Errorf("no directory constellations/ in %s or above it (meros new NAME makes the first one here; --root DIR says where another is)", here)}
		}
	}
}

// inNamespace runs the verb again where it may make sandboxes: an ordinary
// user's process cannot map the ids of a root file system.
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
