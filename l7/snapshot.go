package l7

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/l7/h1"
)

// Snapshot is one whole configuration, built.
type Snapshot struct {
	generation uint64
	config     *lb.Config
	limits     h1.Limits
	via        viaTexts
	listeners  map[string]*listener
	pools      []*Pool
	byName     map[string]*Pool
}

// listener is a listener as it is built into a snapshot.
type listener struct {
	config *lb.Listener
	routes []*Route   // those that may match here, in order
	secure *serverTLS // nil: plain
	pool   *Pool      // of protocol tcp
}

// Prepare builds everything that cfg says, or fails and changes nothing. files
// holds the contents of all files that cfg names.
func (p *Proxy) Prepare(gen uint64, cfg *lb.Config, files map[string][]byte) (*Snapshot, error) {
	s := &Snapshot{
		generation: gen,
		config:     cfg,
		limits:     h1.Limits{Head: int(cfg.Limits.Head), URI: int(cfg.Limits.URI), Fields: cfg.Limits.Fields},
		via:        newViaTexts(cfg.Forward.Via),
		listeners:  map[string]*listener{},
		byName:     map[string]*Pool{},
	}
	secrets := p.secretsFrom(files)
	pools := s.byName
	for _, c := range cfg.Pools {
		pool, err := p.buildPool(c, secrets)
		if err != nil {
			return nil, fmt.Errorf("pool %s: %w", c.Name, err)
		}
		pool.index = len(s.pools)
		s.pools = append(s.pools, pool)
		pools[c.Name] = pool
	}
	for _, c := range cfg.Listeners {
		l := &listener{config: c, pool: pools[c.Pool]}
		if c.TLS != nil {
			var err error
			if l.secure, err = p.buildServerTLS(c.TLS, secrets); err != nil {
				return nil, fmt.Errorf("listener %s: %w", c.Name, err)
			}
		}
		s.listeners[c.Name] = l
	}
	for i, c := range cfg.Routes {
		r, err := p.buildRoute(c, pools, files)
		if err != nil {
			return nil, fmt.Errorf("routes[%d]: %w", i, err)
		}
		s.add(r)
	}
	if _, err := newView(s, overlay{}); err != nil {
		return nil, err
	}
	p.keepSecrets(secrets)
	return s, nil
}

// add puts a route into the lists of its listeners.
func (s *Snapshot) add(r *Route) {
	names := r.Config.Match.Listener
	for name, l := range s.listeners {
		if len(names) == 0 || slices.Contains(names, name) {
			l.routes = append(l.routes, r)
		}
	}
}

// route returns the first route that matches, by its plain path if the listener
// wants that.
func (l *listener) route(r *Request) *Route {
	if l == nil {
		return nil
	}
	if l.config.Normalize {
		r.Target = Normal(r.Target)
	}
	for _, route := range l.routes {
		if route.match.matches(r) {
			return route
		}
	}
	return nil
}

func (p *Proxy) buildRoute(c *lb.Route, pools map[string]*Pool, files map[string][]byte) (*Route, error) {
	r := &Route{Config: c, Name: "route:" + strconv.Itoa(c.Line), retry: newRetryOn(&c.Retry)}
	var err error
	if r.match, err = newMatcher(&c.Match); err != nil {
		return nil, err
	}
	refs := c.Split
	if c.Pool != "" {
		refs = []lb.WeightedRef{{Pool: c.Pool, Weight: 1}}
	}
	for _, ref := range refs {
		pool := pools[ref.Pool]
		if pool == nil {
			return nil, fmt.Errorf("no pool %q", ref.Pool)
		}
		r.splits = append(r.splits, split{pool, ref.Weight})
		r.total += ref.Weight
	}
	filters, err := p.buildFilters(c.Filters, files)
	if err != nil {
		return nil, err
	}
	r.chain = newChain(filters)
	return r, nil
}

func (p *Proxy) buildFilters(specs []lb.FilterSpec, files map[string][]byte) ([]Filter, error) {
	var filters []Filter
	for i, spec := range specs {
		build := p.options.Filters[spec.Name]
		if build == nil {
			return nil, fmt.Errorf("filters[%d]: no filter %q", i, spec.Name)
		}
		f, err := build(spec.Node.WithFiles(files))
		if err != nil {
			return nil, fmt.Errorf("filters[%d]: %s: %w", i, spec.Name, err)
		}
		if f.Name == "" {
			f.Name = spec.Name
		}
		f.times = p.phaseTimes(f.Name)
		filters = append(filters, f)
	}
	return filters, nil
}

func (p *Proxy) buildPool(c *lb.Pool, r *secretReader) (*Pool, error) {
	pool := &Pool{Config: c, budget: p.budget(c.Name), timed: c.Balance == "ewma"}
	if c.Outlier != nil {
		pool.streak = int32(c.Outlier.Consecutive5xx)
	}
	key := endpointKey{protocol: c.Protocol, plain: c.TLS == nil, proxied: c.ProxyProtocol != "", bind: c.Bind}
	if c.TLS != nil {
		key.tls, key.secrets = *c.TLS, r.digest(rootsOf(c.TLS), c.TLS.Cert, c.TLS.Key)
	}
	for _, b := range c.Backends {
		key.address = b.Address
		e, err := p.endpoint(key, r)
		if err != nil {
			return nil, err
		}
		id := lb.BackendID{Pool: c.Name, Address: b.Address}
		pool.Backends = append(pool.Backends, &Backend{Config: b, id: id, pool: pool, endpoint: e, load: p.load(id)})
	}
	return pool, nil
}

// endpoint finds the endpoint of a backend among those of older generations, or
// makes it.
func (p *Proxy) endpoint(key endpointKey, r *secretReader) (*endpoint, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e := p.endpoints[key]; e != nil {
		return e, nil
	}
	e, err := newEndpoint(key, len(p.threads))
	if err != nil {
		return nil, err
	}
	if !key.plain {
		if e.secure, err = buildClientTLS(&key, r); err != nil {
			return nil, err
		}
	}
	p.endpoints[key] = e
	return e, nil
}

func (p *Proxy) load(id lb.BackendID) *load {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.loads[id] == nil {
		p.loads[id] = new(load)
	}
	return p.loads[id]
}

func (p *Proxy) budget(pool string) *retryBudget {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.budgets[pool] == nil {
		p.budgets[pool] = new(retryBudget)
	}
	return p.budgets[pool]
}
