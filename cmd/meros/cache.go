package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"meros/cache"
)

type cacheCmd struct {
	Du     duCmd     `cmd:"" help:"Show what takes how much room."`
	Verify verifyCmd `cmd:"" help:"Read all of the cache and compare it with the digests that name it."`
}

type verifyCmd struct {
	Repair bool `help:"Remove what is damaged; the next build makes it again."`
	JSON   bool `name:"json" help:"Print JSON: {\"files\", \"bytes\", \"damaged\": [{\"file\", \"reason\"}]}."`
}

func (c *verifyCmd) args() []string {
	a := []string{"cache", "verify"}
	for flag, on := range map[string]bool{"--repair": c.Repair, "--json": c.JSON} {
		if on {
			a = append(a, flag)
		}
	}
	return a
}

// Run implements the verb. It fails if something is damaged and stays.
func (c *verifyCmd) Run(e *env) error {
	if c.Repair { // unpacked layers have files of the ids of a namespace
		if done, err := e.inNamespace(c.args()...); done {
			return err
		}
	}
	store, err := cache.Open(filepath.Join(e.root, "data", "cache"), cache.Options{ReadOnly: !c.Repair})
	if err != nil {
		return err
	}
	began := time.Now()
	v, err := store.VerifyAll(e.ctx, c.Repair)
	if err != nil {
		return err
	}
	if c.JSON {
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		e.ui.say("%s", b)
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

type duCmd struct {
	JSON bool `name:"json" help:"Print JSON: [{\"kind\", \"files\", \"bytes\"}], bytes as allocated on disk."`
}

// Run implements the verb.
func (c *duCmd) Run(e *env) error {
	data := filepath.Join(e.root, "data")
	usage, err := cache.Usage(filepath.Join(data, "cache"))
	if err != nil {
		return err
	}
	disks, err := cache.UsageOf("images in data/disks", filepath.Join(data, "disks"))
	if err != nil {
		return err
	}
	usage = append(usage, disks)
	if c.JSON {
		b, err := json.MarshalIndent(usage, "", "  ")
		if err != nil {
			return err
		}
		e.ui.say("%s", b)
		return nil
	}
	var total int64
	for _, u := range usage {
		e.ui.say("%9s  %7d  %s", bytesText(u.Bytes), u.Files, u.Kind)
		total += u.Bytes
	}
	e.ui.say("%9s  %7s  %s", bytesText(total), "", "in all")
	return nil
}
