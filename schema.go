package lb

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Schema is the JSON Schema (2020-12) of a document, made from the same
// structs and tags that Parse reads with. It says what editors can check;
// Parse checks more.
func Schema() []byte {
	b := schemaBuilder{defs: map[string]object{}}
	root := b.structure(reflect.TypeFor[Config]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Cirque configuration"
	root["$defs"] = b.defs
	text, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic("lb: schema: " + err.Error())
	}
	return append(text, '\n')
}

type object = map[string]any

type schemaBuilder struct {
	defs map[string]object
}

// structure is a mapping with known keys.
func (b *schemaBuilder) structure(t reflect.Type) object {
	s := shapeOf(t)
	properties := object{}
	for _, key := range s.keys {
		f := s.fields[key]
		properties[key] = b.field(t.FieldByIndex(f.index).Type, f)
	}
	out := object{"type": "object", "properties": properties, "additionalProperties": false}
	if len(s.needed) > 0 {
		out["required"] = s.needed
	}
	return out
}

// field is a value with what its tags say.
func (b *schemaBuilder) field(t reflect.Type, f field) object {
	out := b.value(t, f)
	if f.preset != "" && t.Kind() != reflect.Slice {
		out["default"] = presetValue(t, f.preset)
	}
	if len(f.words) > 0 {
		return object{"anyOf": []object{out, {"enum": keys(f.words)}}}
	}
	return out
}

// presetValue is a default as JSON says it.
func presetValue(t reflect.Type, preset string) any {
	if t.Kind() == reflect.Int && t != reflect.TypeFor[time.Duration]() {
		n, _ := strconv.Atoi(preset)
		return n
	}
	return preset
}

func (b *schemaBuilder) value(t reflect.Type, f field) object {
	if out := scalarSchema(t, f); out != nil {
		return out
	}
	switch {
	case t == reflect.TypeFor[Node]():
		return object{}
	case t == reflect.TypeFor[FilterSpec]():
		return object{"anyOf": []object{{"type": "string"}, {"type": "object", "minProperties": 1, "maxProperties": 1}}}
	case t.Kind() == reflect.Pointer:
		return b.value(t.Elem(), f)
	case t.Kind() == reflect.Struct:
		return b.reference(t)
	case t.Kind() == reflect.Slice && f.by != "":
		return sized(object{"type": "object", "additionalProperties": b.value(t.Elem(), f.item(""))}, f, "Properties")
	case t.Kind() == reflect.Slice:
		return sized(object{"type": "array", "items": b.value(t.Elem(), f.item(""))}, f, "Items")
	case t.Kind() == reflect.Map:
		return object{"type": "object", "additionalProperties": b.value(t.Elem(), f.item(""))}
	}
	panic("lb: no schema for " + t.String())
}

// reference puts a struct under $defs once.
func (b *schemaBuilder) reference(t reflect.Type) object {
	if _, ok := b.defs[t.Name()]; !ok {
		b.defs[t.Name()] = object{} // a type that holds itself ends here
		def := b.structure(t)
		if short := shapeOf(t).short; short != nil {
			def = object{"anyOf": []object{b.field(t.FieldByIndex(short.index).Type, *short), def}}
		}
		b.defs[t.Name()] = def
	}
	return object{"$ref": "#/$defs/" + t.Name()}
}

func sized(out object, f field, of string) object {
	if f.low != "" {
		out["min"+of], _ = strconv.Atoi(f.low)
		out["max"+of], _ = strconv.Atoi(f.high)
	}
	return out
}

// scalarSchema describes what reads from a scalar; nil: it is none.
func scalarSchema(t reflect.Type, f field) object {
	if scalarReader(t) == nil {
		return nil
	}
	switch t {
	case durationType:
		out := object{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`}
		return described(out, f)
	case reflect.TypeFor[Bytes]():
		return described(object{"type": []string{"string", "integer"}, "pattern": `^[0-9]+(\.[0-9]+)? *([KMGT]iB|[kKMGT]B|B)?$`}, f)
	case reflect.TypeFor[Share]():
		return described(object{"type": "string", "pattern": `^[0-9]+(\.[0-9]+)?%$`}, f)
	case reflect.TypeFor[Statuses]():
		return object{"type": []string{"string", "integer"}, "pattern": `^[1-5][0-9][0-9](-[1-5][0-9][0-9])?(, *[1-5][0-9][0-9](-[1-5][0-9][0-9])?)*$`}
	case reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.AddrPort](), reflect.TypeFor[netip.Prefix]():
		return object{"type": "string", "description": wanted(t)}
	}
	switch t.Kind() {
	case reflect.String:
		if f.one != nil {
			return object{"type": "string", "enum": f.one}
		}
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Int:
		return integerSchema(f)
	}
	return object{"type": "string"}
}

func described(out object, f field) object {
	if f.low != "" {
		out["description"] = fmt.Sprintf("between %s and %s", f.low, f.high)
	}
	return out
}

// integerSchema has the bounds, or the choices when the tags list them.
func integerSchema(f field) object {
	out := object{"type": "integer"}
	if f.low != "" {
		out["minimum"], _ = strconv.Atoi(f.low)
		out["maximum"], _ = strconv.Atoi(f.high)
	}
	if f.one != nil {
		choices := json.RawMessage("[" + strings.Join(f.one, ",") + "]")
		out["enum"] = choices
	}
	return out
}
