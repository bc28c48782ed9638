// This file is the verb schema.

package main

import "meros/constellations"

// schemaCmd is the verb schema.
type schemaCmd struct{}

// Run implements the verb.
func (c *schemaCmd) Run(e *env) error { return e.sayJSON(constellations.Schema()) }
