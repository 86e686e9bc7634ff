package admin

import (
	"reflect"
	"strings"
)

// openAPI serves the description of the API (OpenAPI 3.1), made of the table
// that serves it.
func (a *api) openAPI(c *call) error { return writeJSON(c.w, describe(a.endpoints())) }

func describe(endpoints []endpoint) object {
	s := &schemas{refs: "#/components/schemas/", defs: object{}}
	problem := s.of(reflect.TypeFor[Error]())
	paths := object{}
	for _, e := range endpoints {
		path, ok := paths[e.path].(object)
		if !ok {
			path = object{}
			paths[e.path] = path
		}
		path[strings.ToLower(e.method)] = e.describe(s, problem)
	}
	return object{
		"openapi": "3.1.0",
		"info": object{"title": "Cirque admin API", "version": "1",
			"description": "Served on admin.socket. What changes nothing and shows no document is served on admin.read_only_socket, too."},
		"servers":    []object{{"url": "http://lbd", "description": "the unix socket; the host's name is of no meaning"}},
		"paths":      paths,
		"components": object{"schemas": s.defs},
	}
}

func (e endpoint) describe(s *schemas, problem object) object {
	out := object{
		"summary":     e.summary,
		"operationId": strings.ToLower(e.method) + strings.NewReplacer("/v1/", "-", "/", "-", ".json", "").Replace(e.path),
		"x-access":    [...]string{"anybody", "operator", "changes"}[e.access],
		"responses": object{
			"200":     e.success(s),
			"default": object{"description": "why not", "content": object{"application/problem+json": object{"schema": problem}}},
		},
	}
	if p := e.parameters(); len(p) > 0 {
		out["parameters"] = p
	}
	if body := content(s, e.in); body != nil {
		out["requestBody"] = object{"required": true, "content": body}
	}
	return out
}

func (e endpoint) parameters() []object {
	var all []object
	for _, p := range e.query {
		kind := p.kind
		if kind == "duration" {
			kind = "string"
		}
		all = append(all, object{"name": p.name, "in": "query", "description": p.text, "schema": object{"type": kind}})
	}
	if e.access == changes {
		all = append(all, object{"name": "If-Match", "in": "header", "schema": object{"type": "string"},
			"description": `refuse unless this generation runs, in quotes: "42@edge-1"`})
	}
	return all
}

func (e endpoint) success(s *schemas) object {
	out := object{"description": "done", "content": content(s, e.out)}
	if e.out == nil {
		out["content"] = object{"application/json": object{"schema": object{"type": "object"}}}
	}
	if _, ok := e.out.([]Event); ok {
		out["content"].(object)["text/event-stream"] = object{"schema": object{"type": "string"}}
	}
	return out
}

// content describes a body; nil: there is none.
func content(s *schemas, v any) object {
	switch v.(type) {
	case nil:
		return nil
	case document:
		return object{"application/yaml": object{"schema": object{"type": "string"}}}
	case pcapng:
		return object{pcapngType: object{"schema": object{"type": "string", "format": "binary"}}}
	case map[string]any:
		return object{"application/json": object{"schema": object{"type": "object"}}}
	}
	return object{"application/json": object{"schema": s.of(reflect.TypeOf(v))}}
}
