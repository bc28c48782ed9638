// This file turns the description of the keys into a JSON Schema for editors and
// into the entries of docs/manifest.md.

package constellations

import (
	"strings"
)

// Schema returns the JSON Schema of a manifest, in draft 7, which the language
// servers of editors read.
func Schema() map[string]any {
	definitions := map[string]any{
		"size": map[string]any{"type": []string{"string", "integer"}, "description": "A size: 2G, 512M, or a plain number."},
	}
	top := map[string]any{}
	for _, s := range KeySections() {
		definitions[s.Name] = object(s.Keys)
		for _, k := range s.Keys {
			if k.Top {
				top[k.Name] = k.schema()
			}
		}
	}
	reference := func(name string) map[string]any { return map[string]any{"$ref": "#/definitions/" + name} }
	top["bridges"] = map[string]any{
		"type": "object", "description": "The private networks, by name.", "additionalProperties": nullable(reference("bridge")),
	}
	top["virtual_machines"] = map[string]any{
		"type": "object", "description": "The machines, by name.", "minProperties": 1, "additionalProperties": nullable(reference("machine")),
	}
	return map[string]any{
		"$schema": "http://json-schema.org/draft-07/schema#", "title": "Manifest of a meros constellation",
		"type": "object", "required": []string{"virtual_machines"}, "properties": top, "additionalProperties": false,
		"patternProperties": map[string]any{"^x-": true, "^<<$": true}, "definitions": definitions,
	}
}

// nullable also accepts null in place of a mapping, for a machine of which the
// manifest has only the name.
func nullable(s map[string]any) map[string]any {
	return map[string]any{"anyOf": []any{s, map[string]any{"type": "null"}}}
}

func object(keys []Key) map[string]any {
	properties := map[string]any{"<<": true} // not every reader resolves merge keys before it validates
	var must []string
	for _, k := range keys {
		properties[k.Name] = k.schema()
		if k.Must {
			must = append(must, k.Name)
		}
	}
	o := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if must != nil {
		o["required"] = must
	}
	return o
}

// schema returns the schema of the key's value, with its description.
func (k Key) schema() map[string]any {
	s := k.value()
	text := k.Help
	if k.Default != "" {
		text += " Default: " + k.Default + "."
	}
	s["description"] = strings.ReplaceAll(text, "`", "")
	return s
}

func (k Key) value() map[string]any {
	listOf := func(item any) map[string]any {
		return map[string]any{"anyOf": []any{map[string]any{"type": "array", "items": item}, item}}
	}
	reference := func(name string) map[string]any { return map[string]any{"$ref": "#/definitions/" + name} }
	word := map[string]any{"type": []string{"string", "number", "null"}} // a number counts as its text
	kind, section, _ := strings.Cut(k.Kind, ":")
	switch kind {
	case "integer", "boolean":
		return map[string]any{"type": kind}
	case "size":
		return map[string]any{"allOf": []any{reference("size")}}
	case "kvm":
		return map[string]any{"enum": []any{"auto", "on", "off", true, false}}
	case "integers":
		return listOf(map[string]any{"type": "integer"})
	case "strings", "ports":
		return listOf(map[string]any{"type": []string{"string", "integer"}})
	case "kernel":
		return map[string]any{"anyOf": []any{word, reference("kernel")}}
	case "object":
		return map[string]any{"allOf": []any{reference(section)}}
	case "list":
		item := any(reference(section))
		if section == "probe" {
			item = map[string]any{"anyOf": []any{map[string]any{"const": "ssh"}, reference(section)}}
		}
		return listOf(item)
	}
	if k.Values != nil {
		return map[string]any{"enum": k.Values}
	}
	return map[string]any{"type": word["type"]}
}

// Entry returns the description of the key for docs/manifest.md, in Markdown:
// its help, and a paragraph with its default and where else it may stand.
func (k Key) Entry() string {
	var facts []string
	switch {
	case k.Must:
		facts = append(facts, "Required.")
	case k.Default != "":
		facts = append(facts, "Default: "+k.Default+".")
	}
	if k.Top {
		facts = append(facts, "May stand at the top.")
	}
	if facts == nil {
		return k.Help
	}
	return k.Help + "\n\n*" + strings.Join(facts, " ") + "*"
}
