package main

import (
	"context"
	"errors"
	"sync"
	"time"
)

// parallel calls f for 0 to n-1 at the same time, and waits until all have ended.
func parallel(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// every calls f at a steady rate while work is done. An error of f ends only the calls before the
// work.
func every(ctx context.Context, interval time.Duration, f func(context.Context) error, work func() error) error {
	calling, cancel := context.WithCancel(ctx)
	failed := make(chan error, 1)
	go func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-calling.Done():
				failed <- nil
				return
			case <-tick.C:
			}
			if err := f(calling); err != nil && calling.Err() == nil {
				failed <- err
				return
			}
		}
	}()
	err := work()
	cancel()
	return errors.Join(err, <-failed)
}

// sleep waits, unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
