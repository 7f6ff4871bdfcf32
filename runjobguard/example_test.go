package runjobguard_test

import (
	"fmt"

	"github.com/caddy-jobrunner/caddy-jobrunner/runjobguard"
)

func ExampleIsRoute() {
	for _, path := range []string{"/queue_job/runjob", "/de//queue_job/runjob", "/queue%5fjob/runjob", "/shop"} {
		fmt.Println(path, runjobguard.IsRoute(path))
	}
	// Output:
	// /queue_job/runjob true
	// /de//queue_job/runjob true
	// /queue%5fjob/runjob true
	// /shop false
}
