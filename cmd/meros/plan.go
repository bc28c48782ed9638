// This file is the verb plan: it prints what a build would do.

package main

type planCmd struct {
	Constellation string     `arg:"" help:"Name of the constellation."`
	Machine       []string   `arg:"" optional:"" help:"Machines (default: all)."`
	RootfsOnly    bool       `help:"As for build."`
	Boot          bool       `help:"As for build."`
	Use           givenImage `placeholder:"IMAGE" help:"As for build."`
	JSON          bool       `name:"json" help:"Print JSON: {\"constellation\", \"reused\", \"run\", \"maybe\", \"seconds\", \"stages\": [{\"name\", \"stage\", \"outcome\", \"reason\", \"after\", \"seconds\"}]}; outcome is reused, run or maybe."`
}

// Run implements the verb.
func (c *planCmd) Run(e *env) error {
	f, err := (&request{Constellation: c.Constellation, Machines: c.Machine, RootfsOnly: c.RootfsOnly, Boot: c.Boot, Use: c.Use}).preview(e)
	if err != nil {
		return err
	}
	p := f.summary()
	if c.JSON {
		return e.sayJSON(p)
	}
	p.print(e)
	return nil
}
