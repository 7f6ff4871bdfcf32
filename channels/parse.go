package channels

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Entry is one channel of a channel string, before its options are understood.
type Entry struct {
	Name     string
	Capacity int
	// Unlimited is set when options follow where the capacity is expected, as in "sub:paused".
	// Capacity is then 0.
	Unlimited bool
	Options   []Option
}

// Option is one "key" or "key=value" of an Entry.
type Option struct {
	Key string
	// Value is what follows "=". It is empty for a bare key.
	Value string
	// Bare is set for a key without "=". Such an option is on.
	Bare bool
}

// on is how the add-on understands a switch: everything but an empty value.
func (o Option) on() bool { return o.Bare || o.Value != "" }

// String returns "key" or "key=value".
func (o Option) String() string {
	if o.Bare {
		return o.Key
	}
	return o.Key + "=" + o.Value
}

// String returns the entry as ParseConfig reads it.
func (e Entry) String() string {
	var b strings.Builder
	b.WriteString(e.Name)
	if !e.Unlimited {
		fmt.Fprintf(&b, ":%d", e.Capacity)
	}
	for _, o := range e.Options {
		b.WriteString(":" + o.String())
	}
	return b.String()
}

// ParseConfig reads the add-on's channel string (docs/contract.md 2.7):
//
//	name[:capacity][:key[=value]]...
//
// separated by commas or newlines. A name alone has capacity 1. In every channel but root, a known
// option may follow the name at once; the channel is then unlimited. An unknown one is taken for a
// mistyped capacity. Keys are not interpreted otherwise; see Entry.Config. There is no comment
// syntax.
func ParseConfig(s string) ([]Entry, error) {
	var entries []Entry
	for text := range strings.SplitSeq(strings.ReplaceAll(s, "\n", ","), ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		e, err := parseEntry(text)
		if err != nil {
			return nil, fmt.Errorf("invalid channel config %s: %w", s, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func parseEntry(text string) (Entry, error) {
	parts := splitTrim(text, ":")
	e := Entry{Name: parts[0], Capacity: 1}
	if e.Name == "" {
		return Entry{}, fmt.Errorf("missing channel name")
	}
	if len(parts) == 1 {
		return e, nil
	}
	items := parts[2:]
	var err error
	if e.Capacity, err = parseInt(parts[1]); err != nil {
		first, _ := parseOption(parts[1])
		switch {
		case !knownOptions[first.Key]:
			return Entry{}, fmt.Errorf("invalid capacity %s", parts[1])
		case Normalize(e.Name) == rootName:
			return Entry{}, fmt.Errorf("invalid capacity %s: root needs one before its options", parts[1])
		}
		e.Capacity, e.Unlimited, items = 0, true, parts[1:]
	}
	seen := map[string]bool{"name": true, "capacity": true}
	for _, item := range items {
		o, err := parseOption(item)
		switch {
		case err != nil:
			return Entry{}, err
		case e.Unlimited && o.Key == "capacity":
			return Entry{}, fmt.Errorf("incorrect config item %s: the capacity is the number behind the name", item)
		case seen[o.Key]:
			return Entry{}, fmt.Errorf("duplicate key %s", o.Key)
		}
		seen[o.Key] = true
		e.Options = append(e.Options, o)
	}
	return e, nil
}

// knownOptions are the keys that [Entry.Config] understands.
var knownOptions = map[string]bool{
	"sequential": true, "throttle": true, "paused": true, "capacity_default": true, "sequential_default": true,
}

// Unknown returns the keys of the options that [Entry.Config] ignores, as the add-on does.
func (e Entry) Unknown() (keys []string) {
	for _, o := range e.Options {
		if !knownOptions[o.Key] {
			keys = append(keys, o.Key)
		}
	}
	return keys
}

func parseOption(item string) (Option, error) {
	switch pair := splitTrim(item, "="); len(pair) {
	case 1:
		return Option{Key: item, Bare: true}, nil
	case 2:
		return Option{Key: pair[0], Value: pair[1]}, nil
	}
	return Option{}, fmt.Errorf("incorrect config item %s", item)
}

func splitTrim(s, sep string) []string {
	parts := strings.Split(s, sep)
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// parseInt reads an integer as Python does: a sign and single underscores between digits are fine,
// other bases are not.
func parseInt(s string) (int, error) {
	digits := strings.TrimLeft(s, "+-")
	if strings.HasPrefix(digits, "_") || strings.HasSuffix(digits, "_") || strings.Contains(digits, "__") {
		return 0, strconv.ErrSyntax
	}
	return strconv.Atoi(strings.ReplaceAll(s, "_", ""))
}

// Config understands the options of an entry as the add-on does. It also accepts, with a warning,
// what the add-on accepts although its author can hardly have meant it.
func (e Entry) Config() (cfg Config, warnings []string, err error) {
	cfg = Config{Name: e.Name, Capacity: e.Capacity}
	name := Normalize(e.Name)
	warn := func(format string, args ...any) {
		warnings = append(warnings, "channel "+name+": "+fmt.Sprintf(format, args...))
	}
	switch {
	case e.Unlimited:
		warn("without a capacity before its options it is unlimited")
	case e.Capacity == 0:
		warn("capacity 0 means unlimited")
	case e.Capacity < 0:
		warn("capacity %d means that no job ever runs", e.Capacity)
	}
	number := func(o Option) int {
		n, problem := o.int()
		if problem != nil && err == nil {
			err = fmt.Errorf("channel %s: %w", name, problem)
		}
		return n
	}
	flag := func(o Option) bool {
		if o.on() && looksOff(o.Value) {
			warn("%s: any value but an empty one switches it on", o)
		}
		return o.on()
	}
	for _, o := range e.Options {
		switch o.Key {
		case "sequential":
			cfg.Sequential = flag(o)
		case "throttle":
			seconds := number(o)
			if seconds < 0 {
				warn("%s: a negative throttle does not delay anything", o)
			}
			cfg.Throttle = time.Duration(seconds) * time.Second
		case "paused":
			cfg.Paused = flag(o)
		case "capacity_default":
			cfg.CapacityDefault = number(o)
		case "sequential_default":
			cfg.SequentialDefault = flag(o)
		default:
			warn("unknown option %q is ignored", o.Key)
		}
	}
	if err != nil {
		return Config{}, warnings, err
	}
	switch {
	case cfg.CapacityDefault < 0:
		warn("capacity_default %d means that jobs of a channel below it never run unless that channel has an entry", cfg.CapacityDefault)
	case cfg.SequentialDefault && cfg.CapacityDefault == 0:
		// The add-on makes such channels sequential and unlimited at once, which it refuses in a
		// channel's own entry.
		cfg.CapacityDefault = 1
		warn("sequential_default means a capacity_default of 1")
	}
	return cfg, warnings, nil
}

// maxOption keeps seconds within a time.Duration.
const maxOption = 1_000_000_000

func (o Option) int() (int, error) {
	if o.Bare {
		return 1, nil
	}
	n, err := parseInt(o.Value)
	if err != nil || n > maxOption || n < -maxOption {
		return 0, fmt.Errorf("%s %q is not a whole number of a sensible size", o.Key, o.Value)
	}
	return n, nil
}

func looksOff(value string) bool {
	switch strings.ToLower(value) {
	case "0", "false", "no", "off", "none":
		return true
	}
	return false
}

// ParseConfigs reads a channel string and understands its options. Of several entries for one
// channel the last wins. The result is validated as a whole: Manager.Configure accepts it.
func ParseConfigs(s string) (cfgs []Config, warnings []string, err error) {
	entries, err := ParseConfig(s)
	if err != nil {
		return nil, nil, err
	}
	at := make(map[string]int, len(entries))
	for _, e := range entries {
		cfg, warns, err := e.Config()
		warnings = append(warnings, warns...)
		if err != nil {
			return nil, warnings, err
		}
		if err := cfg.Validate(); err != nil {
			return nil, warnings, err
		}
		name := Normalize(e.Name)
		if i, ok := at[name]; ok {
			cfgs[i] = cfg
			warnings = append(warnings, fmt.Sprintf("channel %s: listed again, the last entry counts", name))
			continue
		}
		at[name] = len(cfgs)
		cfgs = append(cfgs, cfg)
	}
	return cfgs, warnings, nil
}
