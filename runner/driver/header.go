package driver

import (
	"context"
	"net/http"
)

// headerKey is the key of the header in a context.
type headerKey struct{}

// WithHeader returns a context for [Driver.Run] by which the task's request
// carries a header, if the driver speaks HTTP: the context of a trace.
func WithHeader(ctx context.Context, h http.Header) context.Context {
	return context.WithValue(ctx, headerKey{}, h)
}

// Header returns what WithHeader has put into a context, nil if nothing.
func Header(ctx context.Context) http.Header {
	h, _ := ctx.Value(headerKey{}).(http.Header)
	return h
}
