package oneshot

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// usual is Odoo's answer.
const usual = "HTTP/1.0 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 0\r\n" +
	"Server: Werkzeug/2.0.2 Python/3.10\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\n\r\n"

// The usual answer is empty once all of it is there, and not before.
func TestJudgeInParts(t *testing.T) {
	for n := range len(usual) {
		require.Equal(t, unfinished, judge([]byte(usual[:n])), n)
	}
	require.Equal(t, empty, judge([]byte(usual)))
	require.Equal(t, empty, judge([]byte(usual+"more")), "what follows belongs to no answer")
}

func TestJudge(t *testing.T) {
	for answer, want := range map[string]verdict{
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":                               empty,
		"HTTP/1.1 200\r\ncontent-length:0\r\n\r\n":                                   empty,
		"HTTP/1.1 200 OK\r\n\r\n":                                                    other,
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n":                               other,
		"HTTP/1.1 200 OK\r\nContent-Length: 00\r\n\r\n":                              other,
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n":          other,
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n": other,
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n folded: x\r\n\r\n":                 other,
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nno colon\r\n\r\n":                   other,
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n: no name\r\n\r\n":                  other,
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: a\x00b\r\n\r\n":                  other,
		"HTTP/1.1 200 \x7f\r\nContent-Length: 0\r\n\r\n":                             other,
		"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n":                              other,
		"HTTP/1.1 20\r\nContent-Length: 0\r\n\r\n":                                   other,
		"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n":                       other,
		"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 5\r\n\r\n":           other,
		"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n":                               other,
		"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n":                               other,
	} {
		require.Equal(t, want, judge([]byte(answer)), "%q", answer)
	}
}

// TestToken: names are of letters, digits, hyphens and underscores; all else is for net/http to judge.
func TestToken(t *testing.T) {
	require.True(t, token([]byte("azAZ09-_")))
	for c := range 256 {
		sign := []byte{byte(c)}
		letter := bytes.ContainsAny(sign, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
		require.Equal(t, letter, token(sign), "%q", sign)
	}
	require.False(t, token(nil))
}

// FuzzJudge compares with net/http: what is judged to be an empty answer is one for it, too.
func FuzzJudge(f *testing.F) {
	f.Add([]byte(usual))
	for _, c := range answerCases() {
		if len(c.answer) < bufferSize {
			f.Add([]byte(c.answer))
		}
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		if judge(answer) != empty {
			return
		}
		res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), &http.Request{Method: http.MethodGet})
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, res.StatusCode)
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Empty(t, body)
	})
}
