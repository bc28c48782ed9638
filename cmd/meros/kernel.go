package main

type kernelCmd struct {
	Config kernelConfigCmd `cmd:"" help:"Change a kernel's configuration in its menu, and write the difference as a fragment."`
	Diff   kernelDiffCmd   `cmd:"" help:"Show in which options two kernels differ."`
}
