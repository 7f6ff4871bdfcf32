// Package api is the admin API of the job runners: the JSON documents, how they
// are made of what a runner says, and a client. The server, the commands, the
// dashboard and the benchmarks all use these declarations.
//
// Durations are in seconds, times in RFC 3339; what does not apply is left out.
package api
