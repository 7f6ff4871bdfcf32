package admin

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// pageLimit bounds a page of a list, and is its length unless the request says otherwise.
const pageLimit = 1000

// page is the part of a list that a request asks for.
type page struct{ offset, limit int }

// pageOf reads which part of a list, of which runner, or of all if name is empty.
func pageOf(r *http.Request) (p page, name string, err error) {
	q, err := Query(r, "runner", "limit", "offset")
	if err != nil {
		return p, "", err
	}
	p, err = pageIn(q)
	return p, q.Get("runner"), err
}

// pageIn reads which part of a list.
func pageIn(q url.Values) (p page, err error) {
	if p.limit, err = number(q, "limit", 1, pageLimit); err != nil {
		return p, err
	}
	p.limit = min(p.limit, pageLimit)
	p.offset, err = number(q, "offset", 0, 0)
	return p, err
}

// cut returns that part of a list, and what follows it.
func cut[T any](p page, list []T) ([]T, api.Rest) {
	list = list[min(p.offset, len(list)):]
	if len(list) <= p.limit {
		return list, api.Rest{}
	}
	return list[:p.limit], api.Rest{More: len(list) - p.limit, Next: p.offset + p.limit}
}

// number is a parameter that is a number from least on, or without a value otherwise.
func number(q url.Values, name string, least, otherwise int) (int, error) {
	s := q.Get(name)
	if s == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < least {
		return 0, Error(http.StatusBadRequest, "%s %q is not a number from %d on", name, s, least)
	}
	return n, nil
}
