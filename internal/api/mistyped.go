package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Mistyped says in plain words that JSON has a value of another kind than is wanted, where an error
// does so in words of Go; another error stays as it is.
func Mistyped(err error) error {
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return err
	}
	where := ""
	if wrong.Field != "" {
		where = wrong.Field + ": "
	}
	found, _, _ := strings.Cut(wrong.Value, " ") // a number comes with its digits
	if digits, ok := strings.CutPrefix(wrong.Value, "number "); ok {
		if !strings.ContainsAny(digits, ".eE") {
			return fmt.Errorf("%s%s is out of range", where, digits)
		}
		return fmt.Errorf("%s%s is not %s", where, digits, kind(wrong.Type))
	}
	if article, ok := articles[found]; ok {
		found = article
	}
	return fmt.Errorf("%s%s where %s belongs", where, found, kind(wrong.Type))
}

// articles are what JSON's decoder calls kinds of values, as people do.
var articles = map[string]string{
	"string": "a text", "number": "a number", "bool": "true or false", "array": "a list", "object": "an object",
}

// kind is what is wanted for a type, as people call it.
func kind(t reflect.Type) string {
	if t == reflect.TypeFor[time.Time]() {
		return "a time"
	}
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	default:
		return "an object"
	}
}
