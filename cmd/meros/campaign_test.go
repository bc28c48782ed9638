// This file has the campaigns of the nightly tier. Each repeats a fault many
// times, at random moments.

package main

import (
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"meros/bench/lab"
)

// campaignSeed returns the random numbers of a campaign and logs their seed.
// MEROS_TEST_SEED repeats a campaign.
func campaignSeed(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("MEROS_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("MEROS_TEST_SEED=%d repeats this campaign", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// TestCampaignKills kills builds at random moments. The next build must make the
// same image as an undisturbed build.
func TestCampaignKills(t *testing.T) {
	lab.Nightly(t)
	lab.NeedRoot(t)
	random := campaignSeed(t)
	write := func(p *lab.Project) {
		for name, text := range busyFiles {
			p.Write(t, "constellations/busy/"+name, text)
		}
	}
	calm := lab.Downloaded(t, "busy")
	write(calm)
	began := time.Now()
	calm.Must(t, "build", "busy")
	whole := time.Since(began)
	want := disk(t, calm, "busy-m")

	p := lab.Downloaded(t, "busy")
	write(p)
	stages := []string{"bootstrap", "packages", "kernel", "initrd", "pack", "overlay", "hooks", "personalize", "delta", "disk"}
	killed := 0
	for round := range 120 {
		removeResults(t, p, stages[random.IntN(len(stages))])
		cmd := p.Command(t, "build", "busy")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Most stages take a fraction of a second, so most delays must be short.
		delay := time.Duration(random.ExpFloat64() * float64(whole) / 10)
		timer := time.AfterFunc(delay, func() { cmd.Process.Kill() })
		if cmd.Wait() != nil {
			killed++
		}
		timer.Stop()
		settled(t, p.Root)
		if round%10 != 9 {
			continue
		}
		p.Must(t, "build", "busy")
		leftovers(t, p)
		if got := disk(t, p, "busy-m"); got != want {
			t.Fatalf("round %d: the disk is %s, an undisturbed build makes %s", round, got, want)
		}
		p.Must(t, "cache", "verify")
	}
	t.Logf("killed %d of 120 builds", killed)
	if killed < 30 {
		t.Errorf("killed only %d of 120 builds: the campaign tests too little", killed)
	}
}
