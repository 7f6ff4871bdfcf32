package channels

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a container may have no zones, and those of another year would be other times
)

// Window is how many jobs of a channel, and of those below it, may run at once at certain times of
// the week. [ParseWindow] makes one.
type Window struct {
	// Capacity is that number. 0: nothing starts.
	Capacity int
	// Days are those on which the window opens.
	Days Days
	// From and To are minutes since midnight, by the clocks of Zone: the first that belongs to the
	// window, and the first that does not any more. If To is before From, that is on the next day.
	// Where clocks are put forward across one of them, it is the first instant that exists. Where
	// they are put back, it is the first of the two.
	From, To int
	// Zone is the time zone.
	Zone *time.Location
}

// Days is a set of days of the week, with a bit for each [time.Weekday].
type Days uint8

const allDays Days = 1<<7 - 1

var dayNames = [...]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

const (
	minutesOfDay = 24 * 60

	// windowHorizon is how far ahead the end of a window is looked for. A week has every change, and
	// it may be one in which the clocks change.
	windowHorizon = 8
)

// ParseWindow reads a window: its capacity, its days (`mon-fri`, `sat,sun`, `fri-mon`, `daily`), its
// hours (`08:00-20:00`, `22:00-06:00`, `00:00-24:00`), and the name of its time zone in the IANA
// database (`Europe/Brussels`, `UTC`).
func ParseWindow(capacity, days, hours, zone string) (w Window, err error) {
	if w.Capacity, err = parseInt(capacity); err != nil || w.Capacity < 0 {
		return w, fmt.Errorf("capacity %q is not a whole number of jobs, at least 0", capacity)
	}
	if w.Days, err = parseDays(days); err != nil {
		return w, err
	}
	from, to, ok := strings.Cut(hours, "-")
	if !ok {
		return w, fmt.Errorf("hours %q: write them like 08:00-20:00", hours)
	}
	if w.From, err = parseMinute(from); err != nil {
		return w, err
	}
	if w.To, err = parseMinute(to); err != nil {
		return w, err
	}
	if zone == "" || zone == "Local" {
		return w, errors.New("a time zone by its name is missing, such as Europe/Brussels or UTC")
	}
	if w.Zone, err = time.LoadLocation(zone); err != nil {
		return w, fmt.Errorf("time zone %q is not known; write it like Europe/Brussels", zone)
	}
	return w, w.Validate()
}

// Validate reports what makes the window meaningless.
func (w Window) Validate() error {
	switch {
	case w.Capacity < 0:
		return fmt.Errorf("capacity %d is negative", w.Capacity)
	case w.Days == 0 || w.Days&^allDays != 0:
		return errors.New("a window without days")
	case w.Zone == nil:
		return errors.New("a window without a time zone")
	case w.From < 0 || w.From >= minutesOfDay || w.To < 0 || w.To > minutesOfDay:
		return fmt.Errorf("hours %s are not within a day, which is 00:00-24:00", w.hours())
	case w.From == w.To:
		return fmt.Errorf("hours %s are none; a whole day is 00:00-24:00", w.hours())
	}
	return nil
}

// String returns the window as a policy has it: 1 mon-fri 08:00-20:00 Europe/Brussels.
func (w Window) String() string {
	zone := "?"
	if w.Zone != nil {
		zone = w.Zone.String()
	}
	return fmt.Sprintf("%d %s %s %s", w.Capacity, w.Days, w.hours(), zone)
}

func (w Window) hours() string { return clockTime(w.From) + "-" + clockTime(w.To) }

func clockTime(minute int) string { return fmt.Sprintf("%02d:%02d", minute/60, minute%60) }

// parseMinute reads a time of day, hours and minutes of two digits each.
func parseMinute(s string) (int, error) {
	h, m, _ := strings.Cut(s, ":")
	hours, err := strconv.ParseUint(h, 10, 8)
	minutes, err2 := strconv.ParseUint(m, 10, 8)
	if err != nil || err2 != nil || len(h) != 2 || len(m) != 2 || minutes > 59 || hours*60+minutes > minutesOfDay {
		return 0, fmt.Errorf("%q is not a time of day; write it like 08:00", s)
	}
	return int(hours*60 + minutes), nil
}

// parseDays reads days and ranges of days with commas between them.
func parseDays(s string) (days Days, err error) {
	if s == "daily" {
		return allDays, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, ranged := strings.Cut(part, "-")
		from, ok := dayOf(first)
		to := from
		if ranged && ok {
			to, ok = dayOf(last)
		}
		if !ok {
			return 0, fmt.Errorf("days %q: write them like mon-fri, sat,sun or daily", s)
		}
		for day := from; ; day = (day + 1) % 7 {
			days |= 1 << day
			if day == to {
				break
			}
		}
	}
	return days, nil
}

func dayOf(name string) (time.Weekday, bool) {
	for i, known := range dayNames {
		if strings.EqualFold(name, known) {
			return time.Weekday(i), true
		}
	}
	return 0, false
}

// String returns the days as ParseWindow reads them, beginning with Monday.
func (d Days) String() string {
	if d == allDays {
		return "daily"
	}
	var parts []string
	for i := 1; i <= 7; i++ {
		if d&(1<<(i%7)) == 0 {
			continue
		}
		last := i
		for last < 7 && d&(1<<((last+1)%7)) != 0 {
			last++
		}
		part := dayNames[i%7]
		if last > i {
			part += "-" + dayNames[last%7]
		}
		parts = append(parts, part)
		i = last
	}
	return strings.Join(parts, ",")
}

// inForce returns the first window that is open at a time, nil if none is.
func inForce(windows []Window, now time.Time) *Window {
	for i := range windows {
		if windows[i].open(now) {
			return &windows[i]
		}
	}
	return nil
}

// nextChange returns when another window of the list is in force than at that time, and whether that
// is so. If it is not, the time is when that has to be found out again.
func nextChange(windows []Window, now time.Time) (at time.Time, changes bool) {
	current := inForce(windows, now)
	horizon := now.Add(windowHorizon * 24 * time.Hour)
	for at = now; ; {
		next := horizon
		for i := range windows {
			if edge := windows[i].edge(at); edge.Before(next) {
				next = edge
			}
		}
		if next.Equal(horizon) {
			return horizon, false
		}
		if at = next; inForce(windows, at) != current {
			return at, true
		}
	}
}

// open reports whether a time is within the window.
func (w *Window) open(now time.Time) bool {
	is := false
	w.occurrences(now, -2, 1, func(from, to time.Time) {
		is = is || !now.Before(from) && now.Before(to)
	})
	return is
}

// edge returns when the window next opens or closes after a time. It may be one at which nothing
// changes.
func (w *Window) edge(after time.Time) time.Time {
	edge := after.Add(2 * windowHorizon * 24 * time.Hour)
	w.occurrences(after, -2, windowHorizon+1, func(from, to time.Time) {
		for _, t := range [...]time.Time{from, to} {
			if t.After(after) && t.Before(edge) {
				edge = t
			}
		}
	})
	return edge
}

// occurrences visits when the window opens and closes on some days around a time, by their distance
// from the day that it is then. Where clocks are put forward, both may be the same.
func (w *Window) occurrences(around time.Time, first, last int, visit func(from, to time.Time)) {
	year, month, day := around.In(w.Zone).Date()
	for n := first; n <= last; n++ {
		date := time.Date(year, month, day+n, 0, 0, 0, 0, time.UTC)
		if w.Days&(1<<date.Weekday()) == 0 {
			continue
		}
		to := w.To
		if to < w.From {
			to += minutesOfDay
		}
		visit(reached(date, w.From, w.Zone), reached(date, to, w.Zone))
	}
}

// reached returns the first instant at which the clocks of a zone show a time, or a later one: that
// many minutes after midnight of a date, which is given in UTC.
func reached(date time.Time, minute int, zone *time.Location) time.Time {
	wanted := date.Add(time.Duration(minute) * time.Minute)
	// No zone is more than a day away from UTC, so this one is before it everywhere.
	for t := wanted.Add(-26 * time.Hour).In(zone); ; {
		_, offset := t.Zone()
		_, end := t.ZoneBounds()
		at := wanted.Add(-time.Duration(offset) * time.Second).In(zone)
		if at.Before(t) {
			return t // the clocks have just been put forward across it
		}
		if end.IsZero() || at.Before(end) {
			return at
		}
		t = end
	}
}
