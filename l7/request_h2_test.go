package l7

import (
	"strings"
	"testing"
)

// A trailer is what an origin may take for a field of the head.
func TestH2TrailersAreThoseOfHTTP1(t *testing.T) {
	o := startOrigin(t, echoing)
	r := startLab(t, labOptions{}, pool(o.addr)).raw()
	r.head(1, false, request("POST", "/")...)
	r.fr.WriteData(1, false, []byte("hello"))
	r.head(1, true, "x-sum", "5", "x-forwarded-for", "192.0.2.1", "authorization", "Basic eA==", "host", "evil", "x_y", "1")
	if got := r.body(1); !strings.HasSuffix(got, "\nhello\nx-sum: 5") {
		t.Errorf("the backend saw\n%s", got)
	}
}

func TestH2RequestsWithoutABodySaySo(t *testing.T) {
	o := startOrigin(t, echoing)
	r := startLab(t, labOptions{}, pool(o.addr)).raw()
	for i, method := range []string{"POST", "GET"} {
		id := uint32(2*i + 1)
		r.head(id, true, request(method, "/")...)
		if got, want := field(r.body(id), "content-length"), []string{"0", ""}[i]; got != want {
			t.Errorf("%s: content-length %q, want %q", method, got, want)
		}
	}
}
