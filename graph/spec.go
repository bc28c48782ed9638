// This file turns a job into a sandboxed process that runs meros itself. It does not know
// any stage.

package graph

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/go-digest"

	"meros/runner"
)

// Paths in the sandbox of a step.
const (
	stepFile = "/step.json"
	stepOut  = "/out"
	stepWork = "/work"
	stepIn   = "/in"
	selfPath = "/meros"
)

// Step is the description of a node's work for its process. The process gets it as a JSON
// file, and the path of the file as its argument.
type Step struct {
	Stage   string            `json:"stage"`
	Params  map[string]string `json:"params"`
	Hints   map[string]string `json:"hints"`
	Inputs  []StepInput       `json:"inputs"`
	Locals  []StepInput       `json:"locals"`
	Outputs []string          `json:"outputs"`
	Out     string            `json:"out"`
	Work    string            `json:"work"`
	CPU     int               `json:"cpu"`
	Token   string            `json:"token,omitempty"` // see [Job]
}

// StepInput is a file or directory that a step may read.
type StepInput struct {
	Name   string        `json:"name"`
	Path   string        `json:"path"`
	Digest digest.Digest `json:"digest"`
	From   string        `json:"from"` // name of the node that made it, for people
}

// All returns the inputs with that name, in the order of the plan.
func (s *Step) All(name string) []StepInput {
	var all []StepInput
	for _, in := range s.Inputs {
		if in.Name == name {
			all = append(all, in)
		}
	}
	return all
}

// Sandboxed is a [Runner] that runs jobs as "meros stage FILE" in sandboxes on this host.
type Sandboxed struct {
	Self string // path of the meros program
	// Run runs a process: runner.Run, except in tests.
	Run func(context.Context, runner.Spec, runner.Stdio) error
	// Watch returns the standard streams that turn the process's output into the job's
	// log, progress and failure.
	Watch func(*Job) runner.Stdio
	// Env returns further environment variables for a process that may use the host's
	// network, such as proxies. It may be nil. Keys do not contain them.
	Env func(context.Context, *Job) []string
}

// RunJob implements [Runner].
func (s *Sandboxed) RunJob(ctx context.Context, j *Job) error {
	for _, m := range j.Node.Shared {
		if m.Writable {
			if err := os.MkdirAll(m.Source, 0o755); err != nil {
				return err
			}
		}
	}
	stdio := s.Watch(j) // it may choose a token
	spec, step := j.Spec(s.Self)
	if s.Env != nil && spec.Network == runner.HostNetwork {
		spec.Env = append(spec.Env, s.Env(ctx, j)...)
	}
	b, err := json.MarshalIndent(step, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(j.Work), "step.json"), b, 0o644); err != nil {
		return err
	}
	err = s.Run(ctx, spec, stdio)
	if err != nil && ctx.Err() == nil && j.Failure != nil {
		return j.Failure
	}
	return err
}

// Spec returns the process that runs j, and its step. self is the path of the meros
// program.
func (j *Job) Spec(self string) (runner.Spec, Step) {
	n := j.Node
	step := Step{
		Stage: n.Stage, Params: toMap(n.Params), Hints: toMap(n.Hints), Outputs: n.Outputs,
		Out: stepOut, Work: stepWork, CPU: j.CPU, Token: j.Token,
	}
	spec := runner.Spec{
		Argv: []string{selfPath, "stage", stepFile},
		Env:  []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC", "HOME=/work", "TMPDIR=/work"},
		Dir:  stepWork, Hostname: "meros", Trusted: true, Network: n.Network,
		Mounts: []runner.Mount{
			{Source: self, Target: selfPath},
			{Source: filepath.Join(filepath.Dir(j.Work), "step.json"), Target: stepFile},
			{Source: j.Out, Target: stepOut, Writable: true},
			{Source: j.Work, Target: stepWork, Writable: true},
		},
	}
	for i, in := range n.Inputs {
		target := filepath.Join(stepIn, strconv.Itoa(i))
		spec.Mounts = append(spec.Mounts, runner.Mount{Source: j.Inputs[i].Path, Target: target})
		step.Inputs = append(step.Inputs, StepInput{in.Name, target, j.Inputs[i].Artifact.Digest, in.Node.Name})
	}
	for i, l := range n.Locals {
		target := filepath.Join(stepIn, "local"+strconv.Itoa(i))
		spec.Mounts = append(spec.Mounts, runner.Mount{Source: l.Path, Target: target})
		step.Locals = append(step.Locals, StepInput{l.Name, target, digest.Digest(l.Digest), l.Name})
	}
	for _, d := range n.Devices {
		if _, err := os.Stat(d); err == nil {
			spec.Mounts = append(spec.Mounts, runner.Mount{Source: d, Target: d, Device: true})
		}
	}
	for _, s := range n.Shared {
		if _, err := os.Stat(s.Source); err == nil {
			spec.Mounts = append(spec.Mounts, s)
		}
	}
	return spec, step
}

func toMap(ps []Param) map[string]string {
	m := make(map[string]string, len(ps))
	for _, p := range ps {
		m[p.Name] = p.Value
	}
	return m
}
