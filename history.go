package jobrunner

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

const (
	historyOff = "off"
	// leastHistory is for how long intervals of five minutes are kept in any case, and mostHistory is beyond
	// what anyone can mean.
	leastHistory = history.FineKeep
	mostHistory  = 3650 * 24 * time.Hour
)

// historyKeep reads the option history: for how long, and false for not at all.
func historyKeep(word string) (keep time.Duration, on bool, err error) {
	switch word {
	case "":
		return history.KeepDefault, true, nil
	case historyOff:
		return 0, false, nil
	}
	keep, err = caddy.ParseDuration(word)
	if err != nil || keep < leastHistory || keep > mostHistory {
		return 0, false, fmt.Errorf("history: %q is neither %s nor a duration from 2d to 3650d, such as 90d", word, historyOff)
	}
	return keep, true, nil
}

// history is what the option asks for; nil if nothing is to be remembered.
func (r *Runner) history(cfg *runner.Config) (*history.Options, error) {
	keep, on, err := historyKeep(r.History)
	if err != nil || !on {
		return nil, err
	}
	return &history.Options{Dir: filepath.Join(caddy.AppDataDir(), "jobrunner"), Keep: keep, Policies: cfg.Policies, Logger: cfg.Logger, Tell: publish}, nil
}

// parseHistory reads: history <duration>|off.
func (r *Runner) parseHistory(d *caddyfile.Dispenser) error {
	if err := parseString(d, &r.History); err != nil {
		return err
	}
	if _, _, err := historyKeep(r.History); err != nil {
		return d.WrapErr(err)
	}
	return nil
}
