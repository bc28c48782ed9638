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

// keysRead are the keys that the loader knows, by the mapping they stand in:
// one far from all others is answered with those that there are.
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

// What is described is what is read.
func TestKeys(t *testing.T) {
	read := keysRead(t)
	if len(read) != len(KeySections())+1 {
		t.Errorf("%d mappings are read: %v", len(read), read)
	}
	var top []string
	for _, s := range KeySections() {
		var described []string
		for _, k := range s.Keys {
			if described = append(described, k.Name); k.Top {
				top = append(top, k.Name)
			}
			if k.Help == "" {
				t.Errorf("%s of a %s: nobody says what it is", k.Name, s.Name)
			}
		}
		slices.Sort(described)
		if !slices.Equal(described, read[s.Name]) {
			t.Errorf("a %s: described are %v, read are %v", s.Name, described, read[s.Name])
		}
	}
	top = append(top, "bridges", "virtual_machines")
	slices.Sort(top)
	if !slices.Equal(top, read["manifest"]) {
		t.Errorf("the top: described are %v, read are %v", top, read["manifest"])
	}
}

// The document has the tables that follow from the keys.
func TestManifestDocument(t *testing.T) {
	const file = "../docs/manifest.md"
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := string(doc)
	for _, s := range KeySections() {
		between := regexp.MustCompile(`(?s)(<!-- keys of a ` + s.Name + ` -->\n).*?(<!-- end -->)`)
		if !between.MatchString(want) {
			t.Errorf("there is no place for the keys of a %s", s.Name)
		}
		want = between.ReplaceAllString(want, "${1}"+strings.ReplaceAll(s.Table(), "$", "$$")+"${2}")
	}
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(doc) {
		t.Errorf("%s is not what the keys are (go test ./constellations -run Document -update)", file)
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

// What the loader takes, the schema takes, and what has a key that nobody knows
// neither does.
func TestSchema(t *testing.T) {
	s := compiledSchema(t)
	examples, _ := filepath.Glob("*/*.yml")
	if len(examples) < 4 {
		t.Fatalf("there are only %d examples", len(examples))
	}
	texts := map[string]string{"the ancestor's lab": ancestorLab, "a name alone": "virtual_machines: {m: }"}
	for _, f := range examples {
		if strings.HasPrefix(f, "testdata/") {
			continue // what is wrong with them is their purpose
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
			t.Errorf("%s: the schema takes it", name)
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
