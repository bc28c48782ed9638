// This file declares the verbs of meros cache.

package main

type cacheCmd struct {
	Du     duCmd          `cmd:"" help:"Show cache usage by kind, constellation and last use."`
	GC     gcCmd          `cmd:"" name:"gc" help:"Remove the least recently used entries, but none that a running machine, a current image, a lock or a pin needs."`
	Verify verifyCmd      `cmd:"" help:"Compare every file of the cache with its digest."`
	Pin    pinCmd         `cmd:"" help:"Keep everything that a constellation or a machine is made of now, or list the pins."`
	Unpin  unpinCmd       `cmd:"" help:"Remove a pin."`
	Export cacheExportCmd `cmd:"" help:"Write a constellation, and everything that a build of it needs, to one file for a host without a network."`
	Import cacheImportCmd `cmd:"" help:"Import a file that meros cache export wrote."`
}
