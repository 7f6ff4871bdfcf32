package main

import (
	"errors"
	"os"
	"runtime"
)

// pinOdoo keeps PostgreSQL and the stub on the first half of the processors, if that is wanted: as if
// they had a machine of their own. What they start from now on stays there, too.
func (l *lab) pinOdoo() error {
	if !l.pin {
		return nil
	}
	if runtime.NumCPU() < 2 {
		return errors.New("-pin needs two processors")
	}
	half := runtime.NumCPU() / 2
	if err := pin(os.Getpid(), half, runtime.NumCPU()); err != nil {
		return err
	}
	for _, pid := range []int{l.Postgres.PID(), l.stub.process.PID()} {
		if err := pin(pid, 0, half); err != nil {
			return err
		}
	}
	return nil
}

// pinClients keeps a process where the bare clients are: on the other half.
func (l *lab) pinClients(pid int) error {
	if !l.pin {
		return nil
	}
	return pin(pid, runtime.NumCPU()/2, runtime.NumCPU())
}
