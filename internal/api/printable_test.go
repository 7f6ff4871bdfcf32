package api

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPrintable: nothing from a row can control a terminal or turn the direction of a line.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":                               "",
		"größer als 名 🙂":                 "größer als 名 🙂",
		"a\x1b[2Jb":                      "a�[2Jb",
		"a\r\nb\tc\u0085d":               "a��b�c�d",
		"safe\u202etxt.exe\u2066x":       "safe�txt.exe�x",
		"\u200e\u200f\u061c\u2028\u2029": "�����",
		"\xffx":                          "�x",
	} {
		require.Equal(t, want, Printable(in), "%q", in)
		require.Equal(t, in == want, IsPrintable(in), "%q", in)
	}
}
