package main

import (
	"fmt"
	"time"
)

type verifyCmd struct {
	Repair bool `help:"Remove what is damaged; the next build makes it again."`
	JSON   bool `name:"json" help:"Print JSON: {\"files\", \"bytes\", \"damaged\": [{\"file\", \"reason\"}]}."`
}

func (c *verifyCmd) args() []string {
	return commandLine([]string{"cache", "verify"}, map[string]any{"repair": c.Repair, "json": c.JSON})
}

// Run implements the verb. It fails if something is damaged and stays.
func (c *verifyCmd) Run(e *env) error {
	if c.Repair { // unpacked layers have files of the ids of a namespace
		if done, err := e.inNamespace(c.args()...); done {
			return err
		}
	}
	store, err := e.openStore(!c.Repair)
	if err != nil {
		return err
	}
	if c.Repair {
		scratch, err := store.NewScratch(e.scratchDir()) // what is dropped goes there
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
		e.ui.note("removed what was damaged; the next build that needs it makes it again")
		return nil
	}
	return fmt.Errorf("%d files of the cache are damaged (meros cache verify --repair removes them, the next build makes them again)", len(v.Damaged))
}
