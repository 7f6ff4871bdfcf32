//go:build !linux

package main

import "errors"

func pin(int, int, int) error { return errors.New("-pin is there on Linux only") }
