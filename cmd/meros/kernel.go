// This file declares the verbs of meros kernel.

package main

type kernelCmd struct {
	Config kernelConfigCmd `cmd:"" help:"Edit the configuration of a kernel in its menu, and write the changes to a fragment."`
	Diff   kernelDiffCmd   `cmd:"" help:"Compare the configurations of two kernels."`
}
