package constellations

import (
	"strings"
)

// Schema is the JSON Schema (draft 7, which the language servers of editors
// read) of a manifest.
func Schema() map[string]any {
	definitions := map[string]any{
		"size": map[string]any{"type": []string{"string", "integer"}, "description": "2G, 512M, or a plain number"},
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
		"type": "object", "description": "private networks, by name", "additionalProperties": nullable(reference("bridge")),
	}
	top["virtual_machines"] = map[string]any{
		"type": "object", "description": "the machines, by name", "minProperties": 1, "additionalProperties": nullable(reference("machine")),
	}
	return map[string]any{
		"$schema": "http://json-schema.org/draft-07/schema#", "title": "manifest of a constellation of meros",
		"type": "object", "required": []string{"virtual_machines"}, "properties": top, "additionalProperties": false,
		"patternProperties": map[string]any{"^x-": true, "^<<$": true}, "definitions": definitions,
	}
}

// nullable allows nothing in the place of a mapping: a machine of which only
// the name is said.
func nullable(s map[string]any) map[string]any {
	return map[string]any{"anyOf": []any{s, map[string]any{"type": "null"}}}
}

func object(keys []Key) map[string]any {
	properties := map[string]any{"<<": true} // a merge, which not every reader has carried out
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

// schema is what a key's value may be.
func (k Key) schema() map[string]any {
	s := k.value()
	text := k.Help
	if k.Default != "" {
		text += " (default: " + k.Default + ")"
	}
	s["description"] = strings.ReplaceAll(text, "`", "")
	return s
}

func (k Key) value() map[string]any {
	listOf := func(item any) map[string]any {
		return map[string]any{"anyOf": []any{map[string]any{"type": "array", "items": item}, item}}
	}
	reference := func(name string) map[string]any { return map[string]any{"$ref": "#/definitions/" + name} }
	word := map[string]any{"type": []string{"string", "number", "null"}} // of a number its text is taken
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

// Table is the keys as a table in Markdown.
func (s KeySection) Table() string {
	var b strings.Builder
	b.WriteString("| key | default | meaning |\n|---|---|---|\n")
	for _, k := range s.Keys {
		help := k.Help
		if k.Must {
			help += "; must be there"
		}
		b.WriteString("| `" + k.Name + "` | " + k.Default + " | " + help + " |\n")
	}
	return b.String()
}
