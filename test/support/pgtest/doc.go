// Package pgtest runs throwaway PostgreSQL clusters: for tests, for the demo and
// for benchmarks. It works as root too, where PostgreSQL itself refuses to run:
// the server then runs as the user postgres or nobody.
//
// The binaries are those of the machine; where there are none, they are
// downloaded once and kept in the user's cache folder. It needs a Unix system.
package pgtest
