// Command mutants runs the tests of a package against its mutants, for `make mutate`.
//
// Gremlins decides what is broken: it writes a package with one operator changed, calls `go test`,
// and reads the exit status. It has no idea which tests reach the operator, and builds everything
// anew for each mutant, which takes hours. This command answers in place of `go test`:
//
//	mutants prepare   compiles all mutants of a package into one test binary, each behind a
//	                  condition, and notes which test reaches which of them, and how long it takes
//	mutants judge     finds out what Gremlins has changed, and runs the tests that reach it, the
//	                  likeliest to notice first, with that one mutant in force
//
// What cannot be chosen while the program runs, such as an operator in a constant, is compiled for
// that mutant alone. Verdicts are kept, so that an interrupted run goes on.
package main
