package filter

import (
	"net/http"
	"strings"
	"testing"

	"github.com/cirque-lb/lb/l7/l7test"
)

func TestCORSAllowsOrigins(t *testing.T) {
	for _, c := range []struct {
		origins, origin string
		allowed         bool
	}{
		{`["https://a.example"]`, "https://a.example", true},
		{`["https://A.example"]`, "https://a.example", true},
		{`["https://a.example"]`, "http://a.example", false},
		{`["https://a.example"]`, "https://a.example:8443", false},
		{`["https://a.example:8443"]`, "https://a.example:8443", true},
		{`["https://a.example"]`, "https://a.example.evil", false},
		{`["https://*.a.example"]`, "https://b.a.example", true},
		{`["https://*.a.example"]`, "https://c.b.a.example", true},
		{`["https://*.a.example"]`, "https://a.example", false},
		{`["https://*.a.example"]`, "https://evila.example", false},
		{`["https://*.a.example"]`, "https://.a.example", false},
		{`["*"]`, "https://anybody", true},
		{`["*"]`, "null", true},
		{`["null"]`, "null", true},
		{`["https://a.example"]`, "null", false},
	} {
		p := &corsPolicy{}
		var config struct {
			Origins []string `yaml:"origins"`
		}
		n := node(t, "origins: "+c.origins)
		if err := n.Decode(&config); err != nil {
			t.Fatal(err)
		}
		if err := p.setOrigins(n, config.Origins); err != nil {
			t.Fatal(err)
		}
		if got := p.allows(c.origin); got != c.allowed {
			t.Errorf("%s of %s: allowed %v", c.origin, c.origins, got)
		}
	}
}

// cors runs a request through a proxy and returns the fields that matter.
func corsFieldsOf(t *testing.T, p *l7test.Proxy, method string, fields ...string) (status int, got string) {
	t.Helper()
	req, err := http.NewRequest(method, p.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	res, err := raw.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var lines []string
	for _, name := range []string{"Allow-Origin", "Allow-Credentials", "Allow-Methods", "Allow-Headers", "Max-Age", "Expose-Headers"} {
		if v := res.Header["Access-Control-"+name]; v != nil {
			lines = append(lines, name+"="+strings.Join(v, "|"))
		}
	}
	return res.StatusCode, strings.Join(append(lines, "Vary="+strings.Join(res.Header["Vary"], "|")), "; ")
}

func TestCORSThroughAProxy(t *testing.T) {
	backend := origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "https://backend.says")
		w.Header().Set("Vary", "Accept")
		w.WriteHeader(201)
	})
	strict := l7test.Start(t, All, through(`cors: { origins: ["https://a.example"], methods: [GET, PUT], headers: [x-token, content-type], expose: [x-total], credentials: true, max_age: 1h }`, backend))
	open := l7test.Start(t, All, through(`cors: { origins: ["*"], headers: ["*"] }`, backend))
	const preflightVary = "Vary=Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
	for _, c := range []struct {
		name   string
		proxy  *l7test.Proxy
		method string
		fields []string
		status int
		want   string
	}{
		{"a preflight", strict, "OPTIONS", []string{"Origin", "https://a.example", "Access-Control-Request-Method", "PUT"}, 204,
			"Allow-Origin=https://a.example; Allow-Credentials=true; Allow-Methods=GET, PUT; Allow-Headers=x-token, content-type; Max-Age=3600; " + preflightVary},
		{"of a stranger", strict, "OPTIONS", []string{"Origin", "https://evil.example", "Access-Control-Request-Method", "PUT"}, 204, preflightVary},
		{"an OPTIONS that is none", strict, "OPTIONS", []string{"Origin", "https://a.example"}, 201,
			"Allow-Origin=https://a.example; Allow-Credentials=true; Expose-Headers=x-total; Vary=Accept|Origin"},
		{"a request", strict, "GET", []string{"Origin", "https://a.example"}, 201,
			"Allow-Origin=https://a.example; Allow-Credentials=true; Expose-Headers=x-total; Vary=Accept|Origin"},
		{"of a stranger: the backend's word does not count", strict, "GET", []string{"Origin", "https://evil.example"}, 201, "Vary=Accept|Origin"},
		{"of the same origin", strict, "GET", nil, 201, "Vary=Accept|Origin"},
		{"open to all", open, "GET", []string{"Origin", "https://x"}, 201, "Allow-Origin=*; Vary=Accept"},
		{"a preflight, open to all", open, "OPTIONS", []string{"Origin", "https://x", "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "x-a,x-b"}, 204,
			"Allow-Origin=*; Allow-Methods=GET, HEAD, POST; Allow-Headers=x-a,x-b; Max-Age=600; " + preflightVary},
	} {
		if status, got := corsFieldsOf(t, c.proxy, c.method, c.fields...); status != c.status || got != c.want {
			t.Errorf("%s: got %d %s\nwant %d %s", c.name, status, got, c.status, c.want)
		}
	}
}

func TestCORSRefuses(t *testing.T) {
	refuses(t, cors, []refusal{
		{`{}`, `origins is missing`},
		{`{ origins: ["*"], credentials: true }`, `would let every page act as its user`},
		{`{ origins: [a.example] }`, `"a.example" is not an origin`},
		{`{ origins: ["https://a.example/"] }`, `is not an origin`},
		{`{ origins: ["https://a.*.example"] }`, `is not an origin`},
		{`{ origins: ["https://*."] }`, `is not an origin`},
		{`{ origins: ["https://a"], methods: ["A B"] }`, `"A B" is not a method`},
		{`{ origins: ["https://a"], headers: ["a b"] }`, `"a b" is not a field name`},
		{`{ origins: ["https://a"], max_age: 48h }`, `max_age`},
	})
}
