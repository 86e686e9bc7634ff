package lb

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// field is what a struct's tags say of one key.
type field struct {
	key       string
	index     []int
	words     map[string]string // what a word stands for
	one       []string
	by        string
	low, high string
	preset    string
}

// title names the field in a message.
func (f field) title() string {
	if f.key == "" {
		return "this"
	}
	return f.key
}

// item is the field for an element of a list or mapping.
func (f field) item(key string) field {
	f.by, f.low, f.high = "", "", ""
	if key != "" {
		f.key += "." + key
	}
	return f
}

// shape is what the tags of a struct say.
type shape struct {
	fields map[string]field
	keys   []string // in the order of the struct
	needed []string
	short  *field
}

var shapes sync.Map // reflect.Type -> *shape

// shapeOf reads the tags of a struct once.
func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := &shape{fields: map[string]field{}}
	for _, sf := range reflect.VisibleFields(t) {
		key := sf.Tag.Get("yaml")
		if key == "" || key == "-" || !sf.IsExported() {
			continue
		}
		f := field{key: key, index: sf.Index, by: sf.Tag.Get("by"), preset: sf.Tag.Get("default")}
		if one := sf.Tag.Get("one"); one != "" {
			f.one = strings.Split(one, "|")
		}
		if words := sf.Tag.Get("words"); words != "" {
			f.words = map[string]string{}
			for pair := range strings.SplitSeq(words, ",") {
				word, value, _ := strings.Cut(pair, "=")
				f.words[word] = value
			}
		}
		f.low, f.high, _ = strings.Cut(sf.Tag.Get("range"), "..")
		s.fields[key] = f
		s.keys = append(s.keys, key)
		if sf.Tag.Get("need") != "" {
			s.needed = append(s.needed, key)
		}
		if sf.Tag.Get("short") != "" {
			s.short = &f
		}
	}
	shapes.Store(t, s)
	return s
}

// setDefaults fills v with what absent keys mean, nested structs included.
func (s *shape) setDefaults(v reflect.Value) {
	for _, key := range s.keys {
		f := s.fields[key]
		target := v.FieldByIndex(f.index)
		if f.preset != "" {
			f.setPreset(target)
		} else if target.Kind() == reflect.Struct && scalarReader(target.Type()) == nil {
			shapeOf(target.Type()).setDefaults(target)
		}
	}
}

// setPreset panics on a default that does not read: a fault of the struct.
func (f field) setPreset(v reflect.Value) {
	texts := []string{f.preset}
	targets := []reflect.Value{v}
	if v.Kind() == reflect.Slice {
		texts, targets = strings.Split(f.preset, ","), nil
		v.Set(reflect.MakeSlice(v.Type(), len(texts), len(texts)))
		for i := range texts {
			targets = append(targets, v.Index(i))
		}
	}
	for i, text := range texts {
		if word, ok := f.words[text]; ok {
			text = word
		}
		if err := scalarReader(targets[i].Type())(text, targets[i]); err != nil {
			panic(fmt.Sprintf("lb: default of %s: %s", f.key, err.message))
		}
	}
}

// check holds a value against the field's bounds.
func (f field) check(v reflect.Value) *valueError {
	if f.one == nil {
		return f.checkRange(v)
	}
	text := fmt.Sprint(v.Interface())
	if slices.Contains(f.one, text) {
		return nil
	}
	shown := text
	if v.Kind() == reflect.String {
		shown = strconv.Quote(text)
	}
	return &valueError{CodeChoice, "%s cannot be " + shown, nearest(text, f.one)}
}

// checkRange holds numbers against the bounds, and the length of text.
func (f field) checkRange(v reflect.Value) *valueError {
	if f.low == "" {
		return nil
	}
	out := &valueError{CodeRange, fmt.Sprintf("%%s must be between %s and %s", f.low, f.high), ""}
	if v.Kind() == reflect.String {
		out.message = fmt.Sprintf("%%s has %d bytes; it wants between %s and %s", v.Len(), f.low, f.high)
		v = reflect.ValueOf(Bytes(v.Len()))
	}
	if compareValues(v, f.bound(f.low, v.Type())) < 0 || compareValues(v, f.bound(f.high, v.Type())) > 0 {
		return out
	}
	return nil
}

// bound panics on a bound that does not read: a fault of the struct.
func (f field) bound(text string, t reflect.Type) reflect.Value {
	b := reflect.New(t).Elem()
	if err := scalarReader(t)(text, b); err != nil {
		panic(fmt.Sprintf("lb: range of %s: %s", f.key, err.message))
	}
	return b
}
