// This file measures how long it takes to list the contents of the cache.

package bench

import (
	"fmt"
	"testing"
	"time"

	"meros/bench/lab"
	"meros/cache"
)

// BenchmarkDu lists a store of 10,000 artifacts and 5,000 entries with their key
// texts (target: 100 ms). The limit is du(1), which only reads file sizes.
func BenchmarkDu(b *testing.B) {
	store, err := cache.Open(b.TempDir(), cache.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 5000 {
		outputs := make(map[string]cache.Artifact)
		for _, name := range []string{"layer", "accounts"} {
			if outputs[name], err = store.PutBytes(b.Context(), fmt.Appendf(nil, "%d %s", i, name)); err != nil {
				b.Fatal(err)
			}
		}
		key := fmt.Appendf(nil, "key %d", i)
		if err := store.Record(cache.NewActionID(key), key, cache.Entry{Outputs: outputs, Stage: "hooks", Node: "lab/web hooks"}); err != nil {
			b.Fatal(err)
		}
	}
	s := make(samples)
	defer s.report(b)
	for b.Loop() {
		start := time.Now()
		if _, err := cache.Contents(store.Dir()); err != nil {
			b.Fatal(err)
		}
		took := time.Since(start)
		s.add("ms/du", float64(took.Microseconds())/1000)
		s.add("x/du", took.Seconds()/lab.Time(b, "du", "-s", store.Dir()).Seconds())
	}
}
