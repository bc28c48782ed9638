// This file divides the tests into tiers by the time they take, and scales
// their deadlines to the machine.

package lab

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// TierEnv names the environment variable that selects the tier of a test run.
// Without it the short tier runs. "long" runs everything but the campaigns, and
// "nightly" runs the campaigns too.
const TierEnv = "MEROS_TESTS"

// SlowEnv names the environment variable that scales every deadline of the
// tests. Its value is a factor, such as 2.5 on a machine that is busy
// elsewhere.
const SlowEnv = "MEROS_TEST_SLOW"

// Long skips the test in the short tier. The skip is not a failure in CI,
// because CI runs the long tier as well.
func Long(t testing.TB) {
	t.Helper()
	if tier := os.Getenv(TierEnv); tier != "long" && tier != "nightly" {
		t.Skipf("belongs to the long tier: %s=long runs it", TierEnv)
	}
}

// Nightly skips the test in the short and the long tier.
func Nightly(t testing.TB) {
	t.Helper()
	if os.Getenv(TierEnv) != "nightly" {
		t.Skipf("belongs to the nightly tier: %s=nightly runs it", TierEnv)
	}
}

// Timeout returns d, scaled by the factor in [SlowEnv]. Tests use it for every
// wait that depends on how fast this machine boots, bootstraps or compiles.
func Timeout(t testing.TB, d time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv(SlowEnv)
	if text == "" {
		return d
	}
	factor, err := strconv.ParseFloat(text, 64)
	if err != nil || factor <= 0 {
		t.Fatalf("%s=%q is not a positive number", SlowEnv, text)
	}
	return time.Duration(float64(d) * factor)
}
