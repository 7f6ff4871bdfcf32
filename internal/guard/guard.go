// Package guard keeps a panic from ending the process. This module runs inside a web server, which
// has to go on serving whatever goes wrong here.
package guard

import (
	"fmt"
	"runtime/debug"
)

// Call calls f. A panic in it is returned as an error that contains the stack.
func Call(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return f()
}
