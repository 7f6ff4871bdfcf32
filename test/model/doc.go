// Package model is the world around a runner, as an executable model: jobs with their rows and lock
// rows, the statements that a runner sends to PostgreSQL, Odoo's workers in three generations of the
// add-on, and an explorer that visits every state which a model can reach.
//
// The runners themselves are modelled in package runner's tests, because they decide with that
// package's functions. docs/model.md says what is modelled and what is not.
package model
