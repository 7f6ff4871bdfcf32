// Package docs tests the documents: each link, each citation and each name in them
// leads somewhere.
package docs
