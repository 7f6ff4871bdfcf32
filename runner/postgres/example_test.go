package postgres_test

import (
	"fmt"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

func ExamplePatterns() {
	match, err := postgres.Patterns([]string{"prod_*", "!prod_old"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(match("prod_shop"), match("prod_old"), match("test"))
	// Output: true false false
}
