// Package safego keeps a panic from ending the process: it runs inside a web server, which has to
// go on serving whatever goes wrong here.
package safego

import (
	"runtime/debug"

	"go.uber.org/zap"
)

// Run calls f and turns a panic into a log entry that names it. It reports whether f returned.
func Run(log func() *zap.Logger, name string, f func()) (returned bool) {
	defer func() {
		if r := recover(); r != nil {
			log().Error("panic in "+name, zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
		}
	}()
	f()
	return true
}
