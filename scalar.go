package lb

import (
	"cmp"
	"encoding"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// valueError is what is wrong with one value; the first %s in the message is
// its name.
type valueError struct{ code, message, hint string }

// reader sets v from a scalar's text.
type reader func(text string, v reflect.Value) *valueError

var (
	durationType = reflect.TypeFor[time.Duration]()
	unmarshaler  = reflect.TypeFor[encoding.TextUnmarshaler]()

	readers = map[reflect.Type]reader{
		durationType:                      readDuration,
		reflect.TypeFor[Bytes]():          readBytes,
		reflect.TypeFor[Share]():          readShare,
		reflect.TypeFor[netip.Addr]():     readAddr,
		reflect.TypeFor[netip.AddrPort](): readAddrPort,
		reflect.TypeFor[netip.Prefix]():   readPrefix,
	}
)

// scalarReader is how a type is read from a scalar; nil: it is no scalar.
func scalarReader(t reflect.Type) reader {
	if r, ok := readers[t]; ok {
		return r
	}
	if reflect.PointerTo(t).Implements(unmarshaler) {
		return readText
	}
	switch t.Kind() {
	case reflect.String:
		return readString
	case reflect.Bool:
		return readBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return readInt
	case reflect.Float64:
		return readFloat
	}
	return nil
}

// textOnly refuses numbers and booleans where text is wanted, and quoted text
// where a number or boolean is.
func textOnly(n ast.Node, v reflect.Value, text string) (hint string, ok bool) {
	kind := kindOf(n)
	if v.Kind() == reflect.String && kind != "text" && scalarIsPlain(v.Type()) {
		return fmt.Sprintf("write %q", text), false
	}
	number := v.Kind() == reflect.Bool || v.CanInt() || v.CanUint() || v.CanFloat()
	if number && scalarIsPlain(v.Type()) && kind == "text" && quoted(n) {
		return fmt.Sprintf("write %s", text), false
	}
	return "", true
}

// scalarIsPlain reports whether YAML's own kinds apply to the type.
func scalarIsPlain(t reflect.Type) bool {
	_, own := readers[t]
	return !own && !reflect.PointerTo(t).Implements(unmarshaler)
}

// wanted says what a type wants.
func wanted(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration such as 30s"
	case t == reflect.TypeFor[Bytes]():
		return "a size such as 64KiB"
	case t == reflect.TypeFor[Share]():
		return "a percentage such as 20%"
	case t == reflect.TypeFor[netip.Addr]():
		return "an IP address"
	case t == reflect.TypeFor[netip.AddrPort]():
		return "an address with a port"
	case t == reflect.TypeFor[netip.Prefix]():
		return "a network such as 10.0.0.0/8"
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float64:
		return "a number"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return "a whole number"
	}
	return "a value"
}

func readString(text string, v reflect.Value) *valueError { v.SetString(text); return nil }

func readText(text string, v reflect.Value) *valueError {
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
		return &valueError{CodeText, "%s: " + err.Error(), ""}
	}
	return nil
}

func readBool(text string, v reflect.Value) *valueError {
	switch text {
	case "true":
		v.SetBool(true)
	case "false":
		v.SetBool(false)
	default:
		hint := ""
		switch strings.ToLower(text) {
		case "yes", "on", "y":
			hint = "write true"
		case "no", "off", "n":
			hint = "write false"
		}
		return &valueError{CodeType, fmt.Sprintf("%%s is %q; it wants true or false", text), hint}
	}
	return nil
}

func readInt(text string, v reflect.Value) *valueError {
	digits := strings.ReplaceAll(text, "_", "")
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case err != nil && !strings.Contains(err.Error(), "range"):
		return &valueError{CodeType, fmt.Sprintf("%%s is %q; it wants a whole number", text), ""}
	case err != nil || v.CanInt() && v.OverflowInt(n) || v.CanUint() && (n < 0 || v.OverflowUint(uint64(n))):
		return &valueError{CodeRange, fmt.Sprintf("%%s: %s is out of range", text), ""}
	case v.CanInt():
		v.SetInt(n)
	default:
		v.SetUint(uint64(n))
	}
	return nil
}

func readFloat(text string, v reflect.Value) *valueError {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(n, 0) || math.IsNaN(n) {
		return &valueError{CodeType, fmt.Sprintf("%%s is %q; it wants a number", text), ""}
	}
	v.SetFloat(n)
	return nil
}

// maxDuration bounds every duration of a document: nothing waits for ever.
const maxDuration = 30 * 24 * time.Hour

func readDuration(text string, v reflect.Value) *valueError {
	t, err := time.ParseDuration(text)
	switch {
	case err != nil:
		hint := "a number with ms, s, m or h: 500ms, 30s, 5m"
		if _, err := strconv.ParseFloat(text, 64); err == nil {
			hint = fmt.Sprintf("write %ss", text)
		}
		return &valueError{CodeDuration, fmt.Sprintf("%%s: %q is not a duration", text), hint}
	case t < 0 || t > maxDuration:
		return &valueError{CodeRange, "%s must be between 0s and 720h", ""}
	}
	v.SetInt(int64(t))
	return nil
}

// sizeUnits are the units of sizes, longest first.
var sizeUnits = []struct {
	suffix string
	factor float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
}

func readBytes(text string, v reflect.Value) *valueError {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		if err != nil || math.IsNaN(n) || strings.ContainsAny(digits, "eExXpPiI_") {
			break
		}
		if n*u.factor < 0 || n*u.factor > 1<<50 {
			return &valueError{CodeRange, fmt.Sprintf("%%s: %s is out of range", text), ""}
		}
		v.SetInt(int64(n * u.factor))
		return nil
	}
	return &valueError{CodeSize, fmt.Sprintf("%%s: %q is not a size", text), "a number with KiB, MiB or GiB: 64KiB"}
}

func readShare(text string, v reflect.Value) *valueError {
	digits, ok := strings.CutSuffix(text, "%")
	n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
	switch {
	case !ok || err != nil || math.IsNaN(n):
		hint := "a number with %: 20%"
		if err == nil && !ok {
			hint = fmt.Sprintf("write %s%%", text)
		}
		return &valueError{CodeShare, fmt.Sprintf("%%s: %q is not a percentage", text), hint}
	case n < 0 || n > 100:
		return &valueError{CodeRange, "%s must be between 0% and 100%", ""}
	}
	v.SetFloat(n / 100)
	return nil
}

func readAddr(text string, v reflect.Value) *valueError {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return &valueError{CodeAddress, fmt.Sprintf("%%s: %q is not an IP address", text), ""}
	}
	v.Set(reflect.ValueOf(a))
	return nil
}

func readAddrPort(text string, v reflect.Value) *valueError {
	full := text
	if strings.HasPrefix(text, ":") {
		full = "[::]" + text // takes IPv4 too
	}
	a, err := netip.ParseAddrPort(full)
	if err != nil {
		return &valueError{CodeAddress, fmt.Sprintf("%%s: %q is not an address with a port", text), addressHint(text)}
	}
	v.Set(reflect.ValueOf(a))
	return nil
}

// addressHint guesses what was meant by an address that does not read.
func addressHint(text string) string {
	if n, err := strconv.ParseUint(text, 10, 16); err == nil {
		return fmt.Sprintf("write %q", ":"+strconv.FormatUint(n, 10))
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return fmt.Sprintf("the port is missing: %q", netip.AddrPortFrom(a, 80))
	}
	if port, ok := strings.CutPrefix(text, "*:"); ok {
		return fmt.Sprintf("write %q", ":"+port)
	}
	return `such as "192.0.2.10:80", "[2001:db8::1]:80" or ":80"; names are not looked up`
}

func readPrefix(text string, v reflect.Value) *valueError {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		hint := ""
		if a, err := netip.ParseAddr(text); err == nil {
			hint = fmt.Sprintf("write %q", netip.PrefixFrom(a, a.BitLen()))
		}
		return &valueError{CodeNetwork, fmt.Sprintf("%%s: %q is not a network", text), hint}
	}
	if p != p.Masked() {
		return &valueError{CodeNetwork, fmt.Sprintf("%%s: %q has bits beyond its mask", text), fmt.Sprintf("write %q", p.Masked())}
	}
	v.Set(reflect.ValueOf(p))
	return nil
}

// compareValues orders two values of one numeric type.
func compareValues(a, b reflect.Value) int {
	switch {
	case a.CanInt():
		return cmp.Compare(a.Int(), b.Int())
	case a.CanUint():
		return cmp.Compare(a.Uint(), b.Uint())
	case a.CanFloat():
		return cmp.Compare(a.Float(), b.Float())
	}
	return 0
}

// UnmarshalText reads "200-299" or "200".
func (r *StatusRange) UnmarshalText(text []byte) error {
	from, to, both := strings.Cut(string(text), "-")
	if !both {
		to = from
	}
	a, err1 := strconv.Atoi(from)
	b, err2 := strconv.Atoi(to)
	if err1 != nil || err2 != nil || a < 100 || b > 599 || a > b {
		return fmt.Errorf("%q is not a range of statuses such as 200-299", text)
	}
	*r = StatusRange{a, b}
	return nil
}

// MarshalText writes "200-299" or "200".
func (r StatusRange) MarshalText() ([]byte, error) {
	if r.From == r.To {
		return strconv.AppendInt(nil, int64(r.From), 10), nil
	}
	return fmt.Appendf(nil, "%d-%d", r.From, r.To), nil
}

// UnmarshalText reads "200-299,404".
func (s *Statuses) UnmarshalText(text []byte) error {
	*s = nil
	for part := range strings.SplitSeq(string(text), ",") {
		var r StatusRange
		if err := r.UnmarshalText([]byte(strings.TrimSpace(part))); err != nil {
			return err
		}
		*s = append(*s, r)
	}
	return nil
}

// MarshalText writes "200-299,404".
func (s Statuses) MarshalText() ([]byte, error) {
	var parts []string
	for _, r := range s {
		text, _ := r.MarshalText() // never fails
		parts = append(parts, string(text))
	}
	return []byte(strings.Join(parts, ",")), nil
}

// Contains reports whether the status is in one of the ranges.
func (s Statuses) Contains(status int) bool {
	for _, r := range s {
		if r.Contains(status) {
			return true
		}
	}
	return false
}

// Contains reports whether the status is in the range.
func (r StatusRange) Contains(status int) bool { return r.From <= status && status <= r.To }
