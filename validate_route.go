package lb

import (
	"errors"
	"regexp"
	"slices"
	"strings"
)

func (v *validator) route(r *Route) {
	if at := v.places[r]; at.node != nil {
		r.Line = firstToken(at.node).Position.Line
	}
	v.match(&r.Match)
	v.filters(r)
	v.action(r)
	v.poolExists(&r.Pool, r.Pool, "route")
	v.split(r.Split)
	v.redirect(r.Redirect)
	v.respond(r.Respond)
	v.retry(r)
}

// retry wants methods, and a time for an attempt only where another may follow.
func (v *validator) retry(r *Route) {
	for i := range r.Retry.Methods {
		v.method(&r.Retry.Methods[i])
	}
	switch at := &r.Timeout.Attempt; {
	case !v.has(at):
	case r.Retry.Attempts < 2 || !slices.Contains(r.Retry.On, "timeout"):
		v.errorf(at, CodeRetry, "two attempts at least, and timeout in retry.on", "no other attempt follows one that takes longer than this")
	case *at >= r.Timeout.Request:
		v.errorf(at, CodeRetry, "leave it out: request bounds each attempt", "attempt must be shorter than request, which is %s", r.Timeout.Request)
	}
}

// action wants exactly one of the four things a route can do.
func (v *validator) action(r *Route) {
	switch n := count(v.has(&r.Pool), v.has(&r.Split), v.has(&r.Redirect), v.has(&r.Respond)); n {
	case 1:
	case 0:
		v.errorf(r, CodeRouteAction, "add one of pool, split, redirect, respond", "this route does nothing")
	default:
		v.errorf(r, CodeRouteAction, "keep one of pool, split, redirect, respond", "this route does %d things", n)
	}
}

func (v *validator) match(m *Match) {
	for i := range m.Listener {
		v.routeListener(&m.Listener[i])
	}
	for i := range m.Host {
		v.host(&m.Host[i])
	}
	for i := range m.Method {
		v.method(&m.Method[i])
	}
	v.matchPath(&m.Path)
	for name := range m.Header {
		if !validToken(name) {
			v.errorf(&m.Header, CodeMatch, "", "%q is not the name of a header", name)
		}
	}
}

func (v *validator) routeListener(name *string) {
	switch l := v.listenerOf[*name]; {
	case l == nil:
		v.errorf(name, CodeRouteListener, nearest(*name, keys(v.listenerOf)), "route matches listener %q, which does not exist", *name)
	case l.Protocol == ListenTCP:
		v.errorf(name, CodeRouteListener, "its pool stands at the listener", "listener %q speaks tcp, which has no routes", *name)
	}
}

// host wants an exact name or *.suffix; names compare in lower case.
func (v *validator) host(host *string) {
	name := strings.TrimPrefix(*host, "*.")
	hint := ""
	switch {
	case *host == "*":
		hint = "leave host out to match all"
	case strings.Contains(name, "*"):
		hint = "a wildcard is *. and the rest of the name"
	case strings.Contains(name, ":") && !strings.HasPrefix(name, "["):
		hint = "hosts match without their port"
	}
	if name == "" || hint != "" || len(name) > 253 || strings.ContainsAny(name, "/ \t@") || !validField(name) {
		v.errorf(host, CodeMatch, hint, "%q is not a host to match", *host)
		return
	}
	*host = strings.ToLower(*host)
}

func (v *validator) method(method *string) {
	upper := strings.ToUpper(*method)
	switch {
	case !validToken(*method):
		v.errorf(method, CodeMatch, "", "%q is not a method", *method)
	case *method != upper:
		v.errorf(method, CodeMatch, "write "+upper, "%q is never sent: methods are in capitals", *method)
	}
}

func (v *validator) matchPath(p *string) {
	if !v.has(p) {
		return
	}
	switch rest := *p; {
	case strings.HasPrefix(rest, "~"):
		if _, err := regexp.Compile(rest[1:]); err != nil {
			v.errorf(p, CodeMatch, "", "path %q does not compile: %s", *p, regexpProblem(err))
		}
	case !validTarget(strings.TrimPrefix(rest, "=")):
		v.errorf(p, CodeMatch, "/prefix, =/exact or ~regex", "path %q does not begin with /", *p)
	}
}

// regexpProblem is the error without the package's own prefix.
func regexpProblem(err error) string {
	return strings.TrimPrefix(err.Error(), "error parsing regexp: ")
}

// filters hands each filter its configuration.
func (v *validator) filters(r *Route) {
	if v.options.Filters == nil {
		return
	}
	for i := range r.Filters {
		v.filter(&r.Filters[i])
	}
}

func (v *validator) filter(f *FilterSpec) {
	if f.Name == "" {
		return // reported
	}
	check, known := v.options.Filters[f.Name]
	if !known {
		v.errorNode(f.place, CodeFilterUnknown, nearest(f.Name, keys(v.options.Filters)), "no filter %q", f.Name)
		return
	}
	used := new(uses)
	err := check(f.Node.through(used))
	f.files = used.files
	v.filterPools(f, used.pools)
	var many Errors
	switch {
	case err == nil:
	case errors.As(err, &many) && many.placed():
		v.errs = append(v.errs, many...)
	default:
		v.errorNode(f.place, CodeFilter, "", "filter %s: %s", f.Name, plainMessage(err))
	}
}

// filterPools reports pools that a filter refers to and that are none.
func (v *validator) filterPools(f *FilterSpec, refs []Node) {
	for _, ref := range refs {
		if name, _ := scalarText(ref.node); v.poolOf[name] == nil {
			v.errorNode(ref, CodeRoutePool, nearest(name, keys(v.poolOf)), "filter %s uses pool %q, which does not exist", f.Name, name)
		}
	}
}

// placed reports whether every error knows its line.
func (es Errors) placed() bool {
	for _, e := range es {
		if e.Line == 0 {
			return false
		}
	}
	return true
}

// plainMessage is an error's text without code and place.
func plainMessage(err error) string {
	var one *Error
	if errors.As(err, &one) {
		return one.Message
	}
	return err.Error()
}

func (v *validator) split(refs []WeightedRef) {
	total := 0
	for i := range refs {
		v.poolExists(&refs[i].Pool, refs[i].Pool, "route")
		total += refs[i].Weight
	}
	if len(refs) > 0 && total == 0 {
		v.errorf(&refs[0].Weight, CodeWeights, "", "every pool of this split has weight 0")
	}
}

func (v *validator) redirect(r *Redirect) {
	if r == nil {
		return
	}
	if count(v.has(&r.Scheme), v.has(&r.Host), v.has(&r.Path)) == 0 {
		v.errorf(r, CodeRouteAnswer, "add scheme, host or path", "this redirect changes nothing: it would loop")
	}
	if v.has(&r.Path) && !validTarget(r.Path) {
		v.errorf(&r.Path, CodeRouteAnswer, "begin it with /", "%q is not a path to redirect to", r.Path)
	}
	if v.has(&r.Host) && (r.Host == "" || strings.ContainsAny(r.Host, "/ \t@?#") || !validField(r.Host)) {
		v.errorf(&r.Host, CodeRouteAnswer, "", "%q is not a host to redirect to", r.Host)
	}
}

func (v *validator) respond(r *Respond) {
	if r == nil {
		return
	}
	if r.Body != "" && (r.Status == 204 || r.Status == 304) {
		v.errorf(&r.Body, CodeRouteAnswer, "", "a response with status %d has no body", r.Status)
	}
	for name, value := range r.Headers {
		switch {
		case !validToken(name):
			v.errorf(&r.Headers, CodeRouteAnswer, "", "%q is not the name of a header", name)
		case isFraming(name):
			v.errorf(&r.Headers, CodeRouteAnswer, "", "header %q is set by the proxy itself", name)
		case !validField(value):
			v.errorf(&r.Headers, CodeRouteAnswer, "", "header %q: the value holds a control character or outer space", name)
		}
	}
}
