package lb

import (
	"cmp"
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// ChangeKind is what happens to an object.
type ChangeKind string

// The kinds of changes.
const (
	Added   ChangeKind = "added"
	Removed ChangeKind = "removed"
	Changed ChangeKind = "changed"
)

// Change is one difference between two configurations.
type Change struct {
	Kind ChangeKind `json:"kind"`
	Path string     `json:"path"` // pools.app.backends.127.0.0.1:9001.weight; routes.2.pool counts from 1
	Old  string     `json:"old,omitempty"`
	New  string     `json:"new,omitempty"`
	// Backend is set when the change adds, removes or changes a backend.
	Backend *BackendID `json:"backend,omitempty"`
}

func (c Change) String() string {
	switch {
	case c.Kind == Changed:
		return fmt.Sprintf("%s %s: %s -> %s", c.Kind, c.Path, cmp.Or(c.Old, `""`), cmp.Or(c.New, `""`))
	case c.Old+c.New != "":
		return fmt.Sprintf("%s %s: %s", c.Kind, c.Path, c.Old+c.New)
	}
	return fmt.Sprintf("%s %s", c.Kind, c.Path)
}

// Diff lists what changes from old to new, in the order of the shape, defaults
// included. Objects with names are told apart by name, backends by address,
// routes by what they say; a nil Config is an empty one.
func Diff(old, new *Config) []Change {
	d := differ{}
	if old == nil {
		old = &Config{}
	}
	if new == nil {
		new = &Config{}
	}
	d.values("", reflect.ValueOf(*old), reflect.ValueOf(*new))
	return d.changes
}

// differ walks two values of one type.
type differ struct {
	changes []Change
	pool    string // that the walk is in
	backend string
}

func (d *differ) add(kind ChangeKind, path, old, new string) {
	c := Change{Kind: kind, Path: path, Old: old, New: new}
	if d.backend != "" {
		c.Backend = &BackendID{d.pool, d.backend}
	}
	d.changes = append(d.changes, c)
}

func (d *differ) values(path string, old, new reflect.Value) {
	if text, scalar := scalarString(old); scalar {
		if other, _ := scalarString(new); text != other {
			d.add(Changed, path, text, other)
		}
		return
	}
	switch old.Kind() {
	case reflect.Pointer:
		d.pointers(path, old, new)
	case reflect.Struct:
		for _, key := range shapeOf(old.Type()).keys {
			f := shapeOf(old.Type()).fields[key]
			d.values(join(path, key), old.FieldByIndex(f.index), new.FieldByIndex(f.index))
		}
	case reflect.Map:
		d.maps(path, old, new)
	case reflect.Slice:
		d.slices(path, old, new)
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (d *differ) pointers(path string, old, new reflect.Value) {
	switch {
	case old.IsNil() && new.IsNil():
	case old.IsNil():
		d.whole(Added, path, new.Elem())
	case new.IsNil():
		d.whole(Removed, path, old.Elem())
	default:
		d.values(path, old.Elem(), new.Elem())
	}
}

// whole reports an object that comes or goes, and each backend with it.
func (d *differ) whole(kind ChangeKind, path string, v reflect.Value) {
	text, _ := scalarString(v)
	if kind == Added {
		d.add(kind, path, "", text)
	} else {
		d.add(kind, path, text, "")
	}
	p, ok := v.Interface().(Pool)
	if !ok {
		return
	}
	for _, b := range p.Backends {
		d.pool, d.backend = p.Name, b.Address
		d.add(kind, join(path, "backends."+b.Address), "", "")
	}
	d.pool, d.backend = "", ""
}

func (d *differ) maps(path string, old, new reflect.Value) {
	names := map[string]bool{}
	for _, m := range []reflect.Value{old, new} {
		for _, k := range m.MapKeys() {
			names[k.String()] = true
		}
	}
	for _, name := range keys(names) {
		key := reflect.ValueOf(name)
		a, b := old.MapIndex(key), new.MapIndex(key)
		switch {
		case !a.IsValid():
			d.whole(Added, join(path, name), b)
		case !b.IsValid():
			d.whole(Removed, join(path, name), a)
		default:
			d.values(join(path, name), a, b)
		}
	}
}

// slices tells lists of objects by identity, lists of scalars as a whole.
func (d *differ) slices(path string, old, new reflect.Value) {
	switch identity := identityOf(old.Type().Elem()); {
	case identity != nil:
		d.byIdentity(path, elements(old), elements(new), identity)
	case old.Type().Elem() == reflect.TypeFor[*Route]():
		d.inOrder(path, elements(old), elements(new))
	default:
		if a, b := listString(old), listString(new); a != b {
			d.add(Changed, path, a, b)
		}
	}
}

// identityOf is how elements of a list are told apart; nil: by their place.
func identityOf(t reflect.Type) func(reflect.Value) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	name := map[reflect.Type]string{
		reflect.TypeFor[Listener](): "Name", reflect.TypeFor[Pool](): "Name", reflect.TypeFor[Service](): "Name",
		reflect.TypeFor[Backend](): "Address", reflect.TypeFor[WeightedRef](): "Pool",
	}[t]
	if name == "" {
		return nil
	}
	return func(v reflect.Value) string { return v.FieldByName(name).String() }
}

// elements are the structs of a list, pointers followed.
func elements(list reflect.Value) []reflect.Value {
	out := make([]reflect.Value, list.Len())
	for i := range out {
		out[i] = list.Index(i)
		if out[i].Kind() == reflect.Pointer {
			out[i] = out[i].Elem()
		}
	}
	return out
}

func (d *differ) byIdentity(path string, old, new []reflect.Value, identity func(reflect.Value) string) {
	was, is := map[string]reflect.Value{}, map[string]bool{}
	for _, v := range old {
		was[identity(v)] = v
	}
	for _, v := range new {
		id := identity(v)
		is[id] = true
		d.inside(v, func() {
			if before, ok := was[id]; ok {
				d.values(join(path, id), before, v)
			} else {
				d.whole(Added, join(path, id), v)
			}
		})
	}
	for _, v := range old {
		if id := identity(v); !is[id] {
			d.inside(v, func() { d.whole(Removed, join(path, id), v) })
		}
	}
}

// inside runs step knowing the pool and backend that v is.
func (d *differ) inside(v reflect.Value, step func()) {
	pool, backend := d.pool, d.backend
	switch o := v.Interface().(type) {
	case Pool:
		d.pool = o.Name
	case Backend:
		d.backend = o.Address
	}
	step()
	d.pool, d.backend = pool, backend
}

// inOrder pairs what stands at both ends alike; what is left in the middle
// changes one by one as far as both sides reach, the rest comes or goes.
func (d *differ) inOrder(path string, old, new []reflect.Value) {
	same := func(a, b reflect.Value) bool {
		probe := differ{}
		probe.values("", a, b)
		return len(probe.changes) == 0
	}
	head := 0
	for head < len(old) && head < len(new) && same(old[head], new[head]) {
		head++
	}
	tail := 0
	for tail < len(old)-head && tail < len(new)-head && same(old[len(old)-1-tail], new[len(new)-1-tail]) {
		tail++
	}
	old, new = old[head:len(old)-tail], new[head:len(new)-tail]
	place := func(i int) string { return join(path, strconv.Itoa(head+i+1)) }
	for i := range max(len(old), len(new)) {
		switch {
		case i >= len(old):
			d.whole(Added, place(i), new[i])
		case i >= len(new):
			d.whole(Removed, place(i), old[i])
		default:
			d.values(place(i), old[i], new[i])
		}
	}
}

// scalarString is a scalar as a document would say it.
func scalarString(v reflect.Value) (string, bool) {
	switch o := v.Interface().(type) {
	case time.Duration:
		return shortDuration(o), true
	case Bytes:
		return o.String(), true
	case Share:
		return o.String(), true
	case netip.Addr:
		return validString(o.IsValid(), o), true
	case netip.AddrPort:
		return validString(o.IsValid(), o), true
	case FilterSpec:
		return o.String(), true
	case encoding.TextMarshaler:
		text, _ := o.MarshalText()
		return string(text), true
	}
	switch {
	case v.Kind() == reflect.String:
		return v.String(), true
	case v.Kind() == reflect.Bool, v.CanInt(), v.CanUint(), v.CanFloat():
		return fmt.Sprint(v.Interface()), true
	case v.Kind() == reflect.Struct && v.Type() == reflect.TypeFor[CertificateFiles]():
		return fmt.Sprintf("{cert: %s, key: %s}", v.Field(0), v.Field(1)), true
	}
	return "", false
}

func validString(valid bool, s fmt.Stringer) string {
	if !valid {
		return ""
	}
	return s.String()
}

func listString(list reflect.Value) string {
	texts := make([]string, list.Len())
	for i := range texts {
		texts[i], _ = scalarString(list.Index(i))
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// shortDuration is 1m30s without the zero parts of String.
func shortDuration(t time.Duration) string {
	s := t.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// String is the size in its largest whole unit.
func (b Bytes) String() string {
	for _, u := range []struct {
		name string
		size Bytes
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// String is the share in percent.
func (s Share) String() string { return strconv.FormatFloat(float64(s)*100, 'f', -1, 32) + "%" }

// String is the filter as a document says it, on one line.
func (f FilterSpec) String() string {
	if f.Node.IsEmpty() {
		return f.Name
	}
	return f.Name + ": " + f.Node.String()
}

// String is the node in YAML's flow style, mappings in their order.
func (n Node) String() string {
	node, ok := newDecoder(n.doc, nil).plain(n.node)
	if !ok {
		return ""
	}
	switch node := node.(type) {
	case *ast.MappingNode:
		parts := make([]string, len(node.Values))
		for i, m := range node.Values {
			parts[i] = Node{n.doc, m.Key}.String() + ": " + Node{n.doc, m.Value}.String()
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case *ast.SequenceNode:
		parts := make([]string, len(node.Values))
		for i, item := range node.Values {
			parts[i] = Node{n.doc, item}.String()
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	text, _ := scalarText(node)
	if kindOf(node) == "text" && slices.ContainsFunc([]rune(text), func(r rune) bool { return strings.ContainsRune(" :#,[]{}\"'\n\t", r) }) {
		return strconv.Quote(text)
	}
	return text
}
