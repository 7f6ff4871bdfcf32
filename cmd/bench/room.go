package main

import (
	"context"
	"fmt"
	"syscall"
)

// fits reports an error if copies of the template would leave less than a tenth of their size free.
func (l *lab) fits(ctx context.Context, copies int) error {
	var each int64
	if err := l.admin.QueryRow(ctx, "SELECT pg_database_size($1)", templateDB).Scan(&each); err != nil {
		return fmt.Errorf("asking for the size of %s: %w", templateDB, err)
	}
	var folder string
	if err := l.admin.QueryRow(ctx, "SHOW data_directory").Scan(&folder); err != nil {
		return fmt.Errorf("asking for the folder of PostgreSQL: %w", err)
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(folder, &disk); err != nil {
		return fmt.Errorf("asking for the room in %s: %w", folder, err)
	}
	needed, free := float64(each)*float64(copies), float64(disk.Bavail)*float64(disk.Bsize)
	l.report.add("size of all databases", "GB", 1, nil, needed/1e9)
	if free < 1.1*needed {
		return fmt.Errorf("%d databases of %d MB need %.1f GB, and %.1f GB are free: say -archived for fewer jobs, or -dir for another disk",
			copies, each>>20, 1.1*needed/1e9, free/1e9)
	}
	return nil
}
