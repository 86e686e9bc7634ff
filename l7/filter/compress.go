package filter

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7"
)

// compress makes responses smaller for clients that take it:
//
//	compress: { encodings: [zstd, br, gzip], min: 1KiB, types: ["text/*", application/json] }
//
// The client's q-values choose the encoding, among equals the order here does.
// What has no length yet is passed on piece by piece as it comes; else only
// whole blocks are. Left alone are responses that are short, encoded or partial
// already, of other types, or marked no-transform; and all when a route has 256
// under way, for each takes one or two megabytes (counted as "busy").
//
// A strong ETag becomes a weak one, as the bytes differ. Do not compress pages
// that show secrets beside what a request said (BREACH).
func compress(n lb.Node) (l7.Filter, error) {
	var c struct {
		Encodings []string `yaml:"encodings" default:"zstd,br,gzip" one:"zstd|br|gzip" range:"1..3"`
		Min       lb.Bytes `yaml:"min" default:"1KiB" range:"0B..1GiB"`
		Types     []string `yaml:"types" range:"1..100"`
	}
	if err := n.Decode(&c); err != nil {
		return l7.Filter{}, err
	}
	z := &compressor{min: int64(c.Min), types: usualTypes}
	if c.Types != nil {
		z.types = nil
	}
	for _, t := range c.Types {
		media, sub, ok := strings.Cut(t, "/")
		if !ok || media == "" || media == "*" || sub == "" || strings.ContainsAny(t, " ;,") {
			return l7.Filter{}, n.Key("types").Errorf(`%q is not a media type: write "text/html" or "text/*"`, t)
		}
		z.types = append(z.types, strings.ToLower(t))
	}
	for i, name := range c.Encodings {
		for _, before := range c.Encodings[:i] {
			if before == name {
				return l7.Filter{}, n.Key("encodings").Errorf("%s stands twice", name)
			}
		}
		z.codings = append(z.codings, newCoding(name))
	}
	return l7.Filter{Name: "compress", Response: z.response, ResponseBody: z.body, Log: z.release}, nil
}

// usualTypes compress well and are not compressed already.
var usualTypes = []string{"text/*", "application/json", "application/javascript", "application/xml", "application/wasm",
	"application/ld+json", "application/manifest+json", "application/problem+json", "application/rss+xml", "application/atom+xml",
	"application/xhtml+xml", "image/svg+xml", "font/ttf", "font/otf"}

// maxStreams bounds the compressors of a route that are at work at once.
const maxStreams = 256

type compressor struct {
	min     int64
	types   []string
	codings []*coding
	streams l7.Local[*stream]
	busy    atomic.Int64
}

// response decides, and says so in the head.
func (z *compressor) response(s *l7.Session, r *l7.Response) error {
	if !z.suits(s.Request, r) {
		s.PassBody()
		return nil
	}
	addVary(&r.Header, "Accept-Encoding")
	c := z.choose(s.Request.Header)
	if c == nil || s.Request.Method == "HEAD" || r.Status == 304 {
		s.PassBody()
		return nil
	}
	if z.busy.Add(1) > maxStreams {
		z.busy.Add(-1)
		s.Count("compress", "busy")
		s.PassBody()
		return nil
	}
	*z.streams.Of(s) = c.open(r.Length < 0 && r.Body == nil)
	r.Header.Set("Content-Encoding", c.name)
	r.Header.Del("accept-ranges")
	if etag := r.Header.Get("etag"); strings.HasPrefix(etag, `"`) {
		r.Header.Set("ETag", "W/"+etag)
	}
	return nil
}

// suits reports whether a client that takes it would get this compressed.
func (z *compressor) suits(req *l7.Request, r *l7.Response) bool {
	length := r.Length
	if r.Body != nil {
		length = int64(len(r.Body)) // made here
	}
	switch {
	case r.Status < 200 || r.Status == 204 || r.Status == 206:
		return false
	case r.Status != 304 && length >= 0 && length < z.min:
		return false
	case !z.hasType(r.Header.Get("content-type")):
		return false
	case noTransform(r.Header) || noTransform(req.Header):
		return false
	}
	for _, f := range r.Header {
		switch {
		case strings.EqualFold(f.Name, "content-encoding") && !strings.EqualFold(f.Value, "identity"):
			return false
		case strings.EqualFold(f.Name, "content-digest"), strings.EqualFold(f.Name, "repr-digest"), strings.EqualFold(f.Name, "content-md5"):
			return false // it is of the bytes as they are
		}
	}
	return true
}

func (z *compressor) hasType(contentType string) bool {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.TrimSpace(media)
	for _, t := range z.types {
		if all, ok := strings.CutSuffix(t, "*"); ok && len(media) > len(all) && strings.EqualFold(media[:len(all)], all) || strings.EqualFold(media, t) {
			return true
		}
	}
	return false
}

// noTransform: RFC 9111 sections 5.2.1.6 and 5.2.2.6.
func noTransform(h l7.Header) bool {
	for _, f := range h {
		if strings.EqualFold(f.Name, "cache-control") && hasToken(f.Value, "no-transform") {
			return true
		}
	}
	return false
}

// choose returns the coding that the client likes best; nil: none, or the bytes
// as they are.
func (z *compressor) choose(h l7.Header) *coding {
	var best *coding
	bestQ := max(1, acceptance(h, "identity")) // unsaid, it is the last resort
	for _, c := range z.codings {
		if q := acceptance(h, c.name); q > 0 && (best == nil && q >= bestQ || q > bestQ) {
			best, bestQ = c, q
		}
	}
	return best
}

// acceptance is the q-value, in thousandths, that Accept-Encoding gives a coding
// (RFC 9110 section 12.5.3); -1: it says nothing of it.
func acceptance(h l7.Header, name string) int {
	q, other := -1, -1
	for _, f := range h {
		if !strings.EqualFold(f.Name, "accept-encoding") {
			continue
		}
		for list := f.Value; list != ""; {
			var item string
			item, list, _ = strings.Cut(list, ",")
			token, params, _ := strings.Cut(item, ";")
			switch token = strings.TrimSpace(token); {
			case strings.EqualFold(token, name), name == "gzip" && strings.EqualFold(token, "x-gzip"):
				q = weight(params)
			case token == "*" && name != "identity":
				other = weight(params)
			}
		}
	}
	if q < 0 {
		return other
	}
	return q
}

// weight reads "q=0.5" as 500; what is not one is 0.
func weight(params string) int {
	params = strings.TrimSpace(params)
	if params == "" {
		return 1000
	}
	if len(params) < 3 || params[0]|0x20 != 'q' || params[1] != '=' || params[2] != '0' && params[2] != '1' {
		return 0
	}
	value := params[2:]
	q, unit := int(value[0]-'0')*1000, 100
	if len(value) > 1 && value[1] != '.' || len(value) > 5 {
		return 0
	}
	for i := 2; i < len(value); i, unit = i+1, unit/10 {
		if value[i] < '0' || value[i] > '9' {
			return 0
		}
		q += int(value[i]-'0') * unit
	}
	return min(q, 1000)
}

func (z *compressor) body(s *l7.Session, p []byte, end bool) ([]byte, error) {
	st := *z.streams.Of(s)
	if st == nil {
		return p, nil
	}
	return st.next(p, end)
}

func (z *compressor) release(s *l7.Session, _ error) {
	if st := z.streams.Of(s); *st != nil {
		(*st).close()
		*st = nil
		z.busy.Add(-1)
	}
}

// coding is a content coding with compressors to use again.
type coding struct {
	name string
	make func() encoder
	idle sync.Pool
}
