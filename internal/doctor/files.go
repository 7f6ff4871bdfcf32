package doctor

// Files are the jobs of all runners that may run at once, each with a connection, and the files that
// this process may have open. Zero stands for no limit, or one that is not known.
type Files struct{ Jobs, Limit int }

// Scarce reports whether running jobs may take more than half of the files: the sites need some, too.
func (f Files) Scarce() bool { return f.Limit > 0 && f.Jobs > f.Limit/2 }

// files compares them. The limit is that of the doctor's process: a service may have another one.
func (e *examination) files() {
	if f := e.subject.Files; f.Scarce() {
		e.add(foundFiles, "up to %d jobs run at once, each with a connection, and a process that is started like this one may have %d files open, which the sites need too: lower the capacity of root, or raise the limit (LimitNOFILE) if that of the service is not higher",
			f.Jobs, f.Limit)
	}
}
