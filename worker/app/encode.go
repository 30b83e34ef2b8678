package app

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"
)

// encode never fails for the plain structs of this package.
func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return append(text, '\n')
}

// answer says v or text, whichever the client prefers.
func answer(c echo.Context, status int, v any, text string) error {
	if wantsJSON(c.Request()) {
		return send(c, status, echo.MIMEApplicationJSON, encode(v))
	}
	return send(c, status, echo.MIMETextPlainCharsetUTF8, []byte(text))
}

func send(c echo.Context, status int, kind string, body []byte) error {
	header := c.Response().Header()
	header[echo.HeaderVary] = varyByAccept
	header.Set(echo.HeaderContentLength, strconv.Itoa(len(body)))
	return c.Blob(status, kind, body)
}

var varyByAccept = []string{echo.HeaderAccept}

// wantsJSON tells whether the client prefers application/json to text. It must name JSON: a client that takes
// anything gets text. Of two it likes equally it gets the one it named first.
func wantsJSON(r *http.Request) bool {
	named, text, all := accepted{}, accepted{}, accepted{}
	at := 0
	for _, line := range r.Header[echo.HeaderAccept] {
		for item := range strings.SplitSeq(line, ",") {
			kind, params, _ := strings.Cut(item, ";")
			this := accepted{quality: quality(params), at: at, named: true}
			at++
			switch strings.ToLower(strings.TrimSpace(kind)) {
			case "application/json":
				named = this
			case "text/plain":
				text = this
			case "text/*":
				if !text.named {
					text = this
				}
			case "*/*":
				all = this
			}
		}
	}
	if !named.named || named.quality == 0 {
		return false
	}
	if !text.named {
		text = all // what is not named is worth what everything is
	}
	return named.quality > text.quality || named.quality == text.quality && (named.at < text.at || !text.named || text == all)
}

// accepted is one entry of an Accept header.
type accepted struct {
	quality float64
	at      int
	named   bool
}

// quality reads the parameter q, 1 when there is none that can be read.
func quality(params string) float64 {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(param, "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			if q, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil && q >= 0 && q <= 1 {
				return q
			}
		}
	}
	return 1
}
