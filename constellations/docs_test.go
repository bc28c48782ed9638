// This file compares docs/manifest.md and the JSON Schema with the loader.

package constellations

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// keysRead returns the keys that the loader knows, by kind of mapping. The hint for
// an unknown key that resembles no other lists the known ones.
func keysRead(t *testing.T) map[string][]string {
	t.Helper()
	_, err := Parse("x", "manifest.yml", []byte(`
qqqqqqqqqqqqqqqq: 1
bridges: {b: {qqqqqqqqqqqqqqqq: 1}}
virtual_machines:
  m:
    qqqqqqqqqqqqqqqq: 1
    hooks: {qqqqqqqqqqqqqqqq: 1}
    kernel: {qqqqqqqqqqqqqqqq: 1}
    disks: [{label: d, qqqqqqqqqqqqqqqq: 1}]
    networks: [{label: n, bridge: b, qqqqqqqqqqqqqqqq: 1}]
    mounts: [{source: /x, target: /x, qqqqqqqqqqqqqqqq: 1}]
    ready: [{qqqqqqqqqqqqqqqq: 1}]
`))
	var errs *Errors
	if !errors.As(err, &errs) {
		t.Fatal(err)
	}
	read := make(map[string][]string)
	for _, p := range errs.Problems {
		if keys, ok := strings.CutPrefix(p.Hint, "known here: "); ok {
			where := p.Message[strings.LastIndex(p.Message, " ")+1:]
			read[where] = strings.Split(keys, ", ")
		}
	}
	return read
}

// TestKeys checks that the described keys are the keys that the loader knows.
func TestKeys(t *testing.T) {
	read := keysRead(t)
	if len(read) != len(KeySections())+1 {
		t.Errorf("the loader knows %d kinds of mappings: %v", len(read), read)
	}
	var top []string
	for _, s := range KeySections() {
		var described []string
		for _, k := range s.Keys {
			if described = append(described, k.Name); k.Top {
				top = append(top, k.Name)
			}
			if k.Help == "" {
				t.Errorf("key %s of a %s has no description", k.Name, s.Name)
			}
		}
		slices.Sort(described)
		if !slices.Equal(described, read[s.Name]) {
			t.Errorf("a %s: the description has %v, the loader %v", s.Name, described, read[s.Name])
		}
	}
	top = append(top, "bridges", "virtual_machines")
	slices.Sort(top)
	if !slices.Equal(top, read["manifest"]) {
		t.Errorf("the top: the description has %v, the loader %v", top, read["manifest"])
	}
}

// splitEntries cuts the generated part of a document into the texts below its
// headings, by key.
func splitEntries(block string) map[string]string {
	entries := make(map[string]string)
	for _, part := range strings.Split("\n"+block, "\n### `")[1:] {
		key, text, _ := strings.Cut(part, "`\n")
		entries[key] = text
	}
	return entries
}

// example returns the first indented block of an entry, without its indentation,
// and the entry from there on.
func example(entry string) (code, rest string) {
	i := strings.Index("\n"+entry, "\n    ")
	if i < 0 {
		return "", ""
	}
	for line := range strings.Lines(entry[i:]) {
		text, indented := strings.CutPrefix(line, "    ")
		if !indented {
			break
		}
		code += text
	}
	return code, entry[i:]
}

// wrapped breaks paragraphs into lines of at most 90 characters.
func wrapped(text string) string {
	var paragraphs []string
	for p := range strings.SplitSeq(text, "\n\n") {
		var lines []string
		line := ""
		for word := range strings.FieldsSeq(p) {
			if line != "" && len(line)+1+len(word) > 90 {
				lines, line = append(lines, line), ""
			}
			line = strings.TrimPrefix(line+" "+word, " ")
		}
		paragraphs = append(paragraphs, strings.Join(append(lines, line), "\n"))
	}
	return strings.Join(paragraphs, "\n\n")
}

// TestManifestDocument checks that docs/manifest.md has an entry for every key,
// with the text of the schema and an example of that key that loads. With
// -update it rewrites the texts and leaves the examples alone.
func TestManifestDocument(t *testing.T) {
	const file = "../docs/manifest.md"
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := string(doc)
	schema := compiledSchema(t)
	for _, s := range KeySections() {
		between := regexp.MustCompile(`(?s)<!-- keys of a ` + s.Name + ` -->\n(.*?)<!-- end -->`)
		block := between.FindStringSubmatch(want)
		if block == nil {
			t.Errorf("%s has no place for the keys of a %s", file, s.Name)
			continue
		}
		entries := splitEntries(block[1])
		var b strings.Builder
		b.WriteString("<!-- keys of a " + s.Name + " -->\n")
		for _, k := range s.Keys {
			code, rest := example(entries[k.Name])
			if !regexp.MustCompile(`\b` + k.Name + `:`).MatchString(code) {
				t.Errorf("key %s of a %s: the document has no example with it", k.Name, s.Name)
			}
			if _, err := Parse("shop", "manifest.yml", []byte(code)); err != nil {
				t.Errorf("key %s of a %s: the example does not load: %v", k.Name, s.Name, err)
			} else if err := schema.Validate(valueOf(t, code)); err != nil {
				t.Errorf("key %s of a %s: the schema refuses the example: %v", k.Name, s.Name, err)
			}
			b.WriteString("### `" + k.Name + "`\n\n" + wrapped(k.Entry()) + "\n\n" + strings.TrimRight(rest, "\n") + "\n\n")
		}
		b.WriteString("<!-- end -->")
		want = strings.Replace(want, block[0], b.String(), 1)
	}
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(doc) {
		t.Errorf("%s differs from the keys (go test ./constellations -run Document -update)", file)
	}
}

// TestDocumentedManifests loads every manifest in README.md and docs/.
func TestDocumentedManifests(t *testing.T) {
	files, _ := filepath.Glob("../docs/*.md")
	found := 0
	for _, file := range append(files, "../README.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var block strings.Builder
		for line := range strings.Lines(string(text) + "\nend\n") {
			if code, ok := strings.CutPrefix(line, "    "); ok {
				block.WriteString(code)
				continue
			}
			if code := block.String(); strings.Contains(code, "virtual_machines:\n") {
				found++
				if _, err := Parse("shop", filepath.Base(file), []byte(code)); err != nil {
					t.Errorf("%s: %v in\n%s", file, err, code)
				}
			}
			block.Reset()
		}
	}
	if found < 80 {
		t.Errorf("found only %d manifests", found)
	}
}

func compiledSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := json.Marshal(Schema())
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("manifest.json", v); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSchema checks that the schema accepts manifests that load, and refuses
// unknown keys and wrong types.
func TestSchema(t *testing.T) {
	s := compiledSchema(t)
	examples, _ := filepath.Glob("*/*.yml")
	if len(examples) < 4 {
		t.Fatalf("there are only %d examples", len(examples))
	}
	texts := map[string]string{"the lab of the Python version": pythonLab, "a name alone": "virtual_machines: {m: }"}
	for _, f := range examples {
		if strings.HasPrefix(f, "testdata/") {
			continue // these have mistakes on purpose
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		texts[f] = string(text)
	}
	for name, text := range texts {
		if err := s.Validate(valueOf(t, text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"unknown at the top": "virtual_machines: {m: {}}\nbridgs: {}", "unknown at a machine": "virtual_machines: {m: {memroy: 1}}",
		"another word": "virtual_machines: {m: {arch: vax}}", "no machines": "bridges: {}", "another type": "virtual_machines: {m: {cpus: many}}",
		"a disk without a label": "virtual_machines: {m: {disks: [{size_gb: 2}]}}", "kernel": "virtual_machines: {m: {kernel: {sorce: git}}}",
		"ready": "virtual_machines: {m: {ready: [{tpc: 80}]}}",
	} {
		if s.Validate(valueOf(t, text)) == nil {
			t.Errorf("%s: the schema accepts it", name)
		}
	}
}

func valueOf(t *testing.T, text string) any {
	t.Helper()
	j, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(j))
	if err != nil {
		t.Fatal(err)
	}
	return v
}
