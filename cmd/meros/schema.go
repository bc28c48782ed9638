package main

import "meros/constellations"

type schemaCmd struct{}

// Run implements the verb.
func (c *schemaCmd) Run(e *env) error { return e.sayJSON(constellations.Schema()) }
