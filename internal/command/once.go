package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// once is the value of a flag that takes one. Given twice, the last would count, and what is meant by
// the first be left undone without a word.
type once struct {
	pflag.Value
	set bool
}

// twiceError says that a flag has been given two values.
type twiceError struct{ first, second string }

func (e *twiceError) Error() string {
	return fmt.Sprintf("is given twice, as %q and %q, and takes one value", e.first, e.second)
}

// Set implements [pflag.Value]. The same value twice loses nothing.
func (o *once) Set(text string) error {
	before := o.String()
	if err := o.Value.Set(text); err != nil {
		return err
	}
	if after := o.String(); o.set && after != before {
		return &twiceError{before, after}
	}
	o.set = true
	return nil
}

// onlyOnce refuses a second value for each flag of a command that is no list.
func onlyOnce(cmd *cobra.Command) {
	for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		flags.VisitAll(func(f *pflag.Flag) {
			if !strings.HasSuffix(f.Value.Type(), "Slice") {
				f.Value = &once{Value: f.Value}
			}
		})
	}
}
