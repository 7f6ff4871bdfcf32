// Package browsertest opens pages in a headless Chromium, as the tests with the
// build tag browser do. It notes what goes wrong in a page and where the page
// turns to.
package browsertest
