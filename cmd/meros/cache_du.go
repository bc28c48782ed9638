// This file is the verb cache du: it shows which constellations use the cache, and since
// when nothing used an entry.

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"meros/cache"
	"meros/constellations"
)

type duCmd struct {
	Constellation string `arg:"" optional:"" help:"List the entries that the newest builds of this constellation are made of."`
	JSON          bool   `name:"json" help:"Print JSON: {\"bytes\", \"limit\", \"kinds\": [{\"kind\", \"files\", \"bytes\"}], \"constellations\": [{\"name\", \"bytes\", \"alone\"}], \"unneeded\", \"ages\": [{\"days\", \"bytes\"}]}, bytes as allocated on disk; or with a constellation [{\"kind\", \"node\", \"output\", \"digest\", \"bytes\", \"used\", \"also\"}]."`
}

// cacheUse is the usage of the cache.
type cacheUse struct {
	Bytes          int64           `json:"bytes"`
	Limit          int64           `json:"limit"`
	Kinds          []kindUse       `json:"kinds"`
	Constellations []constellation `json:"constellations"`
	Unneeded       int64           `json:"unneeded"` // in no constellation's newest builds, no lock and no pin
	Ages           []ageUse        `json:"ages"`
}

type kindUse struct {
	Kind  string `json:"kind"`
	Files int    `json:"files"`
	Bytes int64  `json:"bytes"`
}

type constellation struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"` // of the artifacts of its newest builds
	Alone int64  `json:"alone"` // of those that no other constellation has
}

// ageUse counts the bytes that were last used less than Days days ago, and not less than
// those of the entry before.
type ageUse struct {
	Days  int   `json:"days"` // 0 means no bound
	Bytes int64 `json:"bytes"`
}

// ageDays are the bounds of ages.
var ageDays = [...]int{1, 7, 30, 0}

// Run implements the verb.
func (c *duCmd) Run(e *env) error {
	dir := e.cacheDir()
	store, err := cache.Open(dir, cache.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	all, err := cache.Contents(dir, cacheAreas(dir)...)
	if err != nil {
		return err
	}
	need, err := findRoots(e, store)
	if err != nil {
		return err
	}
	if c.Constellation != "" {
		return c.one(e, need, all)
	}
	limit, err := cacheLimit(dir)
	if err != nil {
		return err
	}
	disks, err := cache.UsageOf("images in data/disks", e.disksDir())
	if err != nil {
		return err
	}
	u := newCacheUse(need, all, time.Now())
	u.Limit = int64(limit)
	if c.JSON {
		u.Kinds = append(u.Kinds, kindUse{disks.Kind, disks.Files, disks.Bytes})
		return e.sayJSON(u)
	}
	u.print(e, disks)
	return nil
}

func newCacheUse(need *roots, all []cache.Item, now time.Time) *cacheUse {
	u := &cacheUse{Kinds: []kindUse{}, Constellations: []constellation{}}
	kinds, whose := make(map[string]*kindUse), make(map[string]*constellation)
	for _, name := range need.names {
		whose[name] = &constellation{Name: name}
	}
	for _, d := range ageDays {
		u.Ages = append(u.Ages, ageUse{Days: d})
	}
	for _, h := range all {
		u.Bytes += h.Bytes
		if kinds[h.Kind] == nil {
			kinds[h.Kind] = &kindUse{Kind: h.Kind}
		}
		kinds[h.Kind].Files += h.Files
		kinds[h.Kind].Bytes += h.Bytes
		if h.Digest == "" {
			continue
		}
		users := need.users[h.Digest]
		for _, name := range users {
			if w := whose[name]; w != nil {
				w.Bytes += h.Bytes
				if len(users) == 1 {
					w.Alone += h.Bytes
				}
			}
		}
		if len(users) == 0 && need.reasons[h.Digest] == "" {
			u.Unneeded += h.Bytes
		}
		i := slices.IndexFunc(ageDays[:], func(d int) bool { return d == 0 || now.Sub(h.Used) < time.Duration(d)*24*time.Hour })
		u.Ages[i].Bytes += h.Bytes
	}
	for _, k := range kinds {
		u.Kinds = append(u.Kinds, *k)
	}
	for _, w := range whose {
		if w.Bytes > 0 {
			u.Constellations = append(u.Constellations, *w)
		}
	}
	slices.SortFunc(u.Kinds, func(a, b kindUse) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.Kind, b.Kind))
	})
	slices.SortFunc(u.Constellations, func(a, b constellation) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.Name, b.Name))
	})
	return u
}

func (u *cacheUse) print(e *env, disks cache.Item) {
	for _, k := range u.Kinds {
		e.ui.say("%9s  %7d  %s", bytesText(k.Bytes), k.Files, k.Kind)
	}
	limit := "no limit"
	if u.Limit > 0 {
		limit = "builds clean the cache above " + bytesText(u.Limit)
	}
	e.ui.say("%9s           in total; %s", bytesText(u.Bytes), limit)
	e.ui.say("%9s  %7d  %s", bytesText(disks.Bytes), disks.Files, disks.Kind)
	e.ui.say("")
	for _, c := range u.Constellations {
		e.ui.say("%9s  %s; %s of it in no other constellation", bytesText(c.Bytes), c.Name, bytesText(c.Alone))
	}
	e.ui.say("%9s  in no current build, lock or pin; `meros cache gc` removes it first", bytesText(u.Unneeded))
	e.ui.say("")
	for i, a := range u.Ages {
		text := fmt.Sprintf("used within %d days", a.Days)
		switch {
		case a.Days == 1:
			text = "used within a day"
		case a.Days == 0:
			text = fmt.Sprintf("not used for %d days", u.Ages[i-1].Days)
		}
		e.ui.say("%9s  %s", bytesText(a.Bytes), text)
	}
}

type sharedItem struct {
	itemJSON
	Also []string `json:"also,omitempty"` // other constellations that have the entry
}

// one lists the entries that the newest builds of a constellation are made of.
func (c *duCmd) one(e *env, need *roots, all []cache.Item) error {
	if _, err := constellations.Find(e.root, c.Constellation); err != nil && !slices.Contains(need.names, c.Constellation) {
		return usageIfMissing(err)
	}
	items := []sharedItem{}
	for _, h := range all {
		users := need.users[h.Digest]
		if h.Digest == "" || !slices.Contains(users, c.Constellation) {
			continue
		}
		others := slices.DeleteFunc(slices.Clone(users), func(n string) bool { return n == c.Constellation })
		items = append(items, sharedItem{newItemJSON(h), others})
	}
	slices.SortFunc(items, func(a, b sharedItem) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.Digest, b.Digest))
	})
	if c.JSON {
		return e.sayJSON(items)
	}
	var sources, more int64
	for _, h := range items {
		if h.Kind == cache.KindSource && !e.ui.verbose {
			sources, more = sources+h.Bytes, more+1
			continue
		}
		also := ""
		if len(h.Also) > 0 {
			also = "  (also " + strings.Join(h.Also, ", ") + ")"
		}
		e.ui.say("%9s  %-12s  %s%s", bytesText(h.Bytes), ago(h.Used), h.label(), also)
	}
	if more > 0 {
		e.ui.say("%9s  %d packages and sources; -v lists them", bytesText(sources), more)
	}
	return nil
}
