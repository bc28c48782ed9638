package main

type cacheCmd struct {
	Du     duCmd          `cmd:"" help:"Show what takes how much room, for whom, and since when it was not used."`
	GC     gcCmd          `cmd:"" name:"gc" help:"Remove what was not used for the longest time; never what a running machine, a current image, a lock or a pin needs."`
	Verify verifyCmd      `cmd:"" help:"Read all of the cache and compare it with the digests that name it."`
	Pin    pinCmd         `cmd:"" help:"Keep all that a constellation or a machine is made of now, or show what is kept."`
	Unpin  unpinCmd       `cmd:"" help:"End a pin."`
	Export cacheExportCmd `cmd:"" help:"Put a constellation, with all that a build of it needs, into one file for a host without a network."`
	Import cacheImportCmd `cmd:"" help:"Take in what cache export wrote."`
}
