//go:build !linux

package oneshot

import (
	"context"
	"errors"
	"net/http"
)

// Sender is for Linux only.
type Sender struct{}

// NewSender returns nil: everything is sent by a [Transport].
func NewSender(Endpoint) *Sender { return nil }

// Send is never called.
func (*Sender) Send(context.Context, []byte) (*http.Response, bool, error) {
	return nil, false, errors.ErrUnsupported
}
