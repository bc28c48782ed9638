// This file tests configurations, their comparison, and Kconfig files.

package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree writes files to a new directory and returns it.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func config(t testing.TB, text string) Config {
	t.Helper()
	c, err := ReadConfig(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDiff(t *testing.T) {
	a := config(t, "CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_D=\"x=y\"\n")
	b := config(t, "CONFIG_A=y\nCONFIG_C=y\nCONFIG_D=\"z\"\nCONFIG_E=n\n")
	got := fmt.Sprint(Diff(a, b))
	if want := `[CONFIG_B: m -> n CONFIG_C: n -> y CONFIG_D: "x=y" -> "z"]`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if d := Diff(a, a); len(d) != 0 {
		t.Errorf("%v", d)
	}
}

func TestSetOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), ".config")
	if err := os.WriteFile(file, []byte("# top\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_AB=y\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	want, err := ReadWanted(strings.NewReader("CONFIG_B=m\n# CONFIG_A is not set\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := SetOptions(file, want); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil || string(b) != "# top\nCONFIG_AB=y\n# CONFIG_A is not set\nCONFIG_B=m\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// sampleKconfig has one example of everything that can prevent an option's value.
var sampleKconfig = map[string]string{
	"Kconfig": "mainmenu \"x\"\nsource \"scripts/Kconfig.include\"\nsource \"init/Kconfig\"\nsource \"arch/$(SRCARCH)/Kconfig\"\nsource \"drivers/Kconfig\"\n",
	"init/Kconfig": `config MODULES
	bool "modules"
	help
	  A text with words like
	  config NOT_ONE
	    depends on nothing

	  and a second paragraph.
config AFTER
	bool "after a help text"
config HIDDEN
	bool
config SELECTED
	bool "selected"
	depends on AFTER
config LONG
	bool "long" if AFTER
	depends on AFTER && \
		(MODULES || !HIDDEN)
`,
	"arch/x86/Kconfig": "config X86\n\tdef_bool y\n\tselect SELECTED\n",
	"drivers/Kconfig": `menu "Devices"
	depends on AFTER
if MODULES
config DRIVER
	tristate "driver"
	depends on X86 # all of them
endif
choice
	prompt "one of"
	depends on HIDDEN
config ONE
	bool "one"
endchoice
osource "missing/Kconfig"
endmenu
config OUTSIDE
	tristate "outside"
config MACRO
	bool "macro"
	depends on $(cc-option,-mfoo) && NAME = "abc"
config NAME
	string "name"
`,
}

func TestCheck(t *testing.T) {
	s, err := ReadSymbols(tree(t, sampleKconfig), "x86")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.Names(), " "); got != "AFTER DRIVER HIDDEN LONG MACRO MODULES NAME ONE OUTSIDE SELECTED X86" {
		t.Errorf("%s", got)
	}
	want, err := ReadWanted(strings.NewReader(`CONFIG_AFTER=y
CONFIG_HIDDEN=y
CONFIG_LONG=y
CONFIG_DRIVER=m
CONFIG_ONE=y
CONFIG_OUTSIDE=m
# CONFIG_SELECTED is not set
CONFIG_NO_SUCH=y
# CONFIG_NEVER is not set
CONFIG_MACRO=y
CONFIG_X86=0X10
`))
	if err != nil {
		t.Fatal(err)
	}
	got := config(t, "CONFIG_AFTER=y\nCONFIG_X86=0x10\nCONFIG_SELECTED=y\nCONFIG_OUTSIDE=y\nCONFIG_NAME=\"abd\"\n")
	var lines []string
	for _, r := range Check(want, got, s) {
		lines = append(lines, fmt.Sprintf("%s %s->%s unknown=%v %s", r.Name, r.Want, r.Got, r.Unknown, strings.Join(r.Why, "; ")))
	}
	expected := []string{
		"DRIVER m->n unknown=false it depends on MODULES (MODULES=n); it depends on X86 (X86=0x10)",
		"HIDDEN y->n unknown=false it cannot be set, only other options select it",
		"LONG y->n unknown=false ",
		`MACRO y->n unknown=false it depends on NAME = "abc" (NAME="abd")`,
		"NO_SUCH y->n unknown=true ",
		"ONE y->n unknown=false it depends on HIDDEN (HIDDEN=n)",
		"OUTSIDE m->y unknown=false CONFIG_MODULES is off, so nothing can be a module",
		"SELECTED n->y unknown=false another option selects it",
	}
	if strings.Join(lines, "\n") != strings.Join(expected, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(expected, "\n"))
	}
}

func TestEvaluate(t *testing.T) {
	c := config(t, "CONFIG_Y=y\nCONFIG_M=m\nCONFIG_S=\"text\"\nCONFIG_I=5\n")
	for e, want := range map[string]int{
		"Y": 2, "M": 1, "N": 0, "!M": 1, "!N": 2, "Y && M": 1, "N || M": 1, "Y && N": 0, "!(Y && M)": 1, "(N || Y) && !N": 2,
		"M=m": 2, "M = y": 0, "M != y": 2, `S = "text"`: 2, `S="x"`: 0, "I = 5": 2, "I != 5": 0, "y": 2, "n": 0, "m": 1,
		"$(success,test -e (x))": 2, "$(x) && N": 0, "": 2, "Y || N && N": 2, "Y&&!N": 2, "I > 3": 2, "((((": 2, "!": 0,
	} {
		if got := evaluate(e, c); got != want {
			t.Errorf("%q is %d, want %d", e, got, want)
		}
	}
	if got := strings.Join(conjuncts("A && (B || C && D) && !E"), "|"); got != "A|(B || C && D)|!E" {
		t.Errorf("%s", got)
	}
	if got := conjuncts("A || B && C"); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

func FuzzEvaluate(f *testing.F) {
	f.Add("A && (B || !C) && D = \"x\" && $(cc-option,-x)")
	f.Add("$(((")
	f.Add("\"")
	f.Fuzz(func(t *testing.T, e string) {
		if v := evaluate(e, Config{"A": "y"}); v < 0 || v > 2 {
			t.Errorf("%q is %d", e, v)
		}
		values(e, nil)
		conjuncts(e)
	})
}

// A file that sources itself, and a chain that never ends, give a short error: the
// error of each level would contain those below.
func TestReadSymbolsRecursion(t *testing.T) {
	endless := map[string]string{"Kconfig": "source \"k0\"\n"}
	for i := range 100 {
		endless[fmt.Sprint("k", i)] = fmt.Sprintf("source \"k%d\"\n", i+1)
	}
	for name, files := range map[string]map[string]string{
		"itself": {"Kconfig": "source \"./Kconfig\"\n"}, "another": {"Kconfig": "source \"a\"\n", "a": "source \"Kconfig\"\n"}, "a chain": endless,
	} {
		if _, err := ReadSymbols(tree(t, files), "x86"); err == nil || !strings.Contains(err.Error(), "is sourced by itself, or 64 files deep") || len(err.Error()) > 1000 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadSymbols(tree(t, map[string]string{"Kconfig": "source \"a\"\nsource \"a\"\n", "a": "config A\n"}), "x86"); err != nil {
		t.Errorf("a file sourced twice: %v", err)
	}
}

func FuzzReadSymbols(f *testing.F) {
	for _, text := range sampleKconfig {
		f.Add(text)
	}
	f.Add("source \"Kconfig\"\n")
	f.Add("if\nmenu\nendif\nendmenu\nendif\ndepends on X\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ReadSymbols(tree(t, map[string]string{"Kconfig": text}), "x86")
		if err != nil {
			return
		}
		for _, n := range s.Names() {
			s.Explain(n, "y", Config{})
		}
	})
}
