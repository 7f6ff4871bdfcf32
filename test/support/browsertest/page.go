//go:build browser

package browsertest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// patience bounds every wait. It is only reached when a test fails.
const patience = 60 * time.Second

// Page is a page in a browser of its own. Whatever fails ends the test.
type Page struct {
	t   *testing.T
	ctx context.Context //nolint:containedctx // the life of the browser

	mu       sync.Mutex // guards the following
	problems []string
	requests []string
}

// New starts a browser, which ends with the test.
func New(t *testing.T) *Page {
	t.Helper()
	p := &Page{t: t}
	opts := chromedp.DefaultExecAllocatorOptions[:len(chromedp.DefaultExecAllocatorOptions):len(chromedp.DefaultExecAllocatorOptions)]
	// Chromium's own sandbox needs rights that containers do not give.
	opts = append(opts, chromedp.Flag("no-sandbox", true), chromedp.Flag("lang", "en-GB"), chromedp.UserDataDir(t.TempDir()))
	ctx, endAllocator := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, end := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		end()
		endAllocator()
	})
	p.ctx = ctx
	require.NoError(t, chromedp.Do(ctx, chromedp.Navigate("about:blank")))
	require.NoError(t, chromedp.Listen(ctx, p.hear))
	p.do("enable the network's events", chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, network.Enable, network.EnableParams{})
		return err
	}))
	return p
}

// hear notes what the browser reports.
func (p *Page) hear(ev any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch ev := ev.(type) {
	case *runtime.EventExceptionThrown:
		p.problems = append(p.problems, fmt.Sprintf("exception: %+v", ev.ExceptionDetails))
	case *runtime.EventConsoleAPICalled:
		for _, arg := range ev.Args {
			p.problems = append(p.problems, fmt.Sprintf("console.%s: %s%s", ev.Type, arg.Value, arg.Description))
		}
	case *log.EventEntryAdded:
		p.problems = append(p.problems, fmt.Sprintf("%s: %s %s", ev.Entry.Level, ev.Entry.Text, ev.Entry.URL))
	case *network.EventRequestWillBeSent:
		p.requests = append(p.requests, ev.Request.URL)
	}
}

// Problems returns what the page wrote to the console and what it threw since
// the last call.
func (p *Page) Problems() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	problems := p.problems
	p.problems = nil
	return problems
}

// Hosts returns where the page has sent requests, each host once.
func (p *Page) Hosts() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var hosts []string
	seen := make(map[string]bool)
	for _, raw := range p.requests {
		u, err := url.Parse(raw)
		require.NoError(p.t, err)
		if !seen[u.Host] {
			seen[u.Host] = true
			hosts = append(hosts, u.Host)
		}
	}
	return hosts
}

func (p *Page) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeoutCause(p.ctx, patience, fmt.Errorf("not within %s", patience))
	defer cancel()
	require.NoError(p.t, chromedp.Do(ctx, actions...), what)
}

// Open navigates to an address.
func (p *Page) Open(address string) {
	p.t.Helper()
	p.do("open "+address, chromedp.Navigate(address))
}

// Click clicks what a CSS selector finds, once it is visible.
func (p *Page) Click(selector string) {
	p.t.Helper()
	p.do("click "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// Type types text, or keys, into what a CSS selector finds.
func (p *Page) Type(selector, text string) {
	p.t.Helper()
	p.do("type into "+selector, chromedp.SendKeys(chromedp.CSS(selector), text))
}

// Eval evaluates JavaScript.
func Eval[T any](p *Page, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	require.NoError(p.t, err, expression)
	return v
}

// Text returns the visible text of what a CSS selector finds first.
func (p *Page) Text(selector string) string {
	p.t.Helper()
	quoted, err := json.Marshal(selector)
	require.NoError(p.t, err)
	return Eval[string](p, `document.querySelector(`+string(quoted)+`)?.innerText ?? ''`)
}

// Until waits until a JavaScript expression is true.
func (p *Page) Until(expression string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return Eval[bool](p, "!!("+expression+")") }, patience, 20*time.Millisecond,
		"%s; the page says:\n%s", expression, p.textLater())
}

// textLater is the page's text at the time of a failure.
func (p *Page) textLater() fmt.Stringer { return late(func() string { return p.Text("body") }) }

type late func() string

func (l late) String() string { return l() }

// Device says how the page is looked at.
type Device struct {
	Width, Height int64
	// Phone has a touch screen and says that it is small.
	Phone, Dark bool
}

// Use makes the page appear on a device.
func (p *Page) Use(d Device) {
	p.t.Helper()
	var opts []chromedp.EmulateViewportOption
	if d.Phone {
		opts = append(opts, chromedp.EmulateMobile, chromedp.EmulateTouch)
	}
	scheme := "light"
	if d.Dark {
		scheme = "dark"
	}
	p.do("emulate a device", chromedp.EmulateViewport(d.Width, d.Height, opts...), chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}})
		return err
	}))
}

// Screenshot writes what is to be seen into a PNG file.
func (p *Page) Screenshot(path string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, func(ctx context.Context, t *chromedp.Target) ([]byte, error) {
		r, err := cdp.Call(ctx, t, page.CaptureScreenshot, page.CaptureScreenshotParams{})
		if err != nil {
			return nil, err
		}
		return r.Data, nil
	})
	require.NoError(p.t, err)
	require.NoError(p.t, os.WriteFile(path, png, 0o600))
}
