// This file is the verb cache verify.

package main

import (
	"fmt"
	"time"

	"meros/runner/hint"
)

type verifyCmd struct {
	Repair bool `help:"Remove damaged files; the next build makes them again."`
	JSON   bool `name:"json" help:"Print JSON: {\"files\", \"bytes\", \"damaged\": [{\"file\", \"reason\"}]}."`
}

func (c *verifyCmd) args() []string {
	return commandLine([]string{"cache", "verify"}, map[string]any{"repair": c.Repair, "json": c.JSON})
}

// Run implements the verb. It fails if damaged files remain.
func (c *verifyCmd) Run(e *env) error {
	if c.Repair { // the owners of unpacked files are IDs of a namespace
		if done, err := e.inNamespace(c.args()...); done {
			return err
		}
	}
	store, err := e.openStore(!c.Repair)
	if err != nil {
		return err
	}
	if c.Repair {
		scratch, err := store.NewScratch(e.scratchDir()) // the store removes files through it
		if err != nil {
			return err
		}
		defer scratch.Close()
	}
	began := time.Now()
	v, err := store.VerifyAll(e.ctx, c.Repair)
	if err != nil {
		return err
	}
	if c.JSON {
		if err := e.sayJSON(v); err != nil {
			return err
		}
	} else {
		for _, d := range v.Damaged {
			e.ui.say("damaged  %s: %s", d.File, d.Reason)
		}
		took := time.Since(began)
		e.ui.say("%d files, %s, read in %s (%s/s): %d damaged", v.Files, bytesText(v.Bytes), seconds(took), bytesText(int64(float64(v.Bytes)/took.Seconds())), len(v.Damaged))
	}
	switch {
	case len(v.Damaged) == 0:
		return nil
	case c.Repair:
		e.ui.note("removed the damaged files; the next build makes them again if it needs them")
		return nil
	}
	return hint.Add(fmt.Errorf("the cache has %s", counted(len(v.Damaged), "damaged file")), "`meros cache verify --repair` removes them, and the next build makes them again")
}
