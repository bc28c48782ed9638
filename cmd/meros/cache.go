package main

import (
	"encoding/json"
	"path/filepath"

	"meros/cache"
)

type cacheCmd struct {
	Du duCmd `cmd:"" help:"Show what takes how much room."`
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
