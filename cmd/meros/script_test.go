// This file runs the scripts of testdata/script against the real program.

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"meros/bench/lab"
)

// TestScripts runs testdata/script/*.txtar, which check the program's messages as
// a user sees them. The language is that of testscript(1) of go-internal, with two
// more commands:
//
//	download CONSTELLATION...   does what lab.Downloaded does, in the current directory
//	exit STATUS PROGRAM...      does what exec does, and checks the exit status
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			bin := filepath.Dir(lab.Program(t))
			e.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			e.Setenv("CI", os.Getenv("CI"))
			return nil
		},
		Condition: func(cond string) (bool, error) {
			return cond == "root" && os.Geteuid() == 0, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"download": func(ts *testscript.TestScript, _ bool, args []string) {
				p := &lab.Project{Root: ts.MkAbs(".")}
				p.Download(t, args...)
			},
			"exit": func(ts *testscript.TestScript, _ bool, args []string) {
				err := ts.Exec(args[1], args[2:]...)
				exit := (*exec.ExitError)(nil)
				if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
					ts.Fatalf("%v, want exit status %s", err, args[0])
				}
			},
		},
	})
}
