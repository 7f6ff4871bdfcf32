package api

import (
	"context"
	"time"
)

// Forecast is the answer of GET /jobrunner/forecast: when the jobs that wait will have been started.
type Forecast struct {
	Runner string    `json:"runner"`
	At     time.Time `json:"at"`
	// Channels are those that have jobs, or had some lately. They count those below them, too.
	Channels []ChannelForecast `json:"channels"`
	// Assumes says what it rests on.
	Assumes []string `json:"assumes"`
}

// ChannelForecast is when no job of a channel will wait. Times are in seconds.
type ChannelForecast struct {
	// Database is there where each database has its own channels.
	Database string `json:"database,omitempty"`
	Channel  string `json:"channel"`
	// Waiting is how many jobs wait that could run, Scheduled how many wait for their eta.
	Waiting   int `json:"waiting"`
	Scheduled int `json:"scheduled"`
	// PerHour is how many jobs come in an hour, apart from bursts.
	PerHour float64 `json:"arrivals_per_hour"`
	// Verdict is empty, drains, later (not within 24 hours, or what could be looked at), never (as long as
	// jobs come as they do, or the channel is held back) or unknown.
	Verdict string `json:"verdict"`
	// In is when no job waits that could run, for the first time, Least and Most are between which times eight of ten
	// tries were. They are there where it drains; Least is how far was looked where it does so later.
	In    *float64 `json:"empty_in_seconds,omitempty"`
	Least *float64 `json:"least_seconds,omitempty"`
	Most  *float64 `json:"most_seconds,omitempty"`
}

// Forecast asks when the jobs that wait will have been started.
func (c *Client) Forecast(ctx context.Context, name string) (Forecast, error) {
	return get[Forecast](ctx, c, "forecast", ofRunner(name))
}
