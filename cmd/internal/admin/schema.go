package admin

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/cirque-lb/lb"
)

// object is a JSON object of a schema.
type object = map[string]any

// schemas describes Go types in JSON Schema (2020-12), as encoding/json writes
// them. Structs with a name are described once, under defs.
type schemas struct {
	refs string // what references begin with
	defs object
}

var textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()

func (s *schemas) of(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return object{}
	case t.Implements(textMarshaler), reflect.PointerTo(t).Implements(textMarshaler):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint64, reflect.Uint16:
		return object{"type": "integer"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice:
		return object{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Interface:
		return object{}
	case reflect.Struct:
		return s.named(t)
	}
	panic("admin: no schema for " + t.String())
}

// named references a struct's definition.
func (s *schemas) named(t reflect.Type) object {
	if t.Name() == "" {
		return s.structure(t)
	}
	if s.defs[t.Name()] == nil {
		s.defs[t.Name()] = object{} // a type that holds itself ends here
		s.defs[t.Name()] = s.structure(t)
	}
	return object{"$ref": s.refs + t.Name()}
}

func (s *schemas) structure(t reflect.Type) object {
	properties, required := object{}, []string{}
	for _, f := range reflect.VisibleFields(t) {
		if f.Anonymous || !f.IsExported() {
			continue // the fields of what is embedded stand in the list themselves
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		properties[name] = s.of(f.Type)
		if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") {
			required = append(required, name)
		}
	}
	out := object{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

// outputs are what lbctl prints with -o json, by a name of its own.
var outputs = map[string]any{
	"status": Status{}, "listeners": []Listener{}, "routes": []Route{}, "pools": []Pool{}, "services": []Service{},
	"nodes": []Node{}, "backends": []Backend{}, "certificates": []Certificate{}, "refusals": []Refusal{}, "story": Story{}, "traffic": Traffic{}, "explanation": Explanation{},
	"service": Service{}, "workers": []Worker{}, "crashes": []lb.Crash{}, "crash": lb.Crash{}, "key-rings": []KeyRing{},
	"event": Event{}, "events": []Event{}, "history": []Generation{}, "document": Document{}, "applied": Applied{},
}

// Schema is the JSON Schema of one of the outputs, or ("") of all: then each
// is a property. ok is false when there is none of the name. More are those of
// the caller, by their names.
func Schema(name string, more map[string]any) (text []byte, ok bool) {
	s := schemas{refs: "#/$defs/", defs: object{}}
	all := object{}
	for _, list := range []map[string]any{outputs, more} {
		for n, v := range list {
			if name == "" || n == name {
				all[n] = s.of(reflect.TypeOf(v))
			}
		}
	}
	root := object{"type": "object", "properties": all}
	if name != "" {
		if root, ok = all[name].(object); !ok {
			return nil, false
		}
	}
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$defs"] = s.defs
	text, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic("admin: schema: " + err.Error())
	}
	return append(text, '\n'), true
}

// OutputNames lists what Schema knows by itself.
func OutputNames() []string {
	var all []string
	for name := range outputs {
		all = append(all, name)
	}
	return all
}
