package lb

import (
	"reflect"
	"slices"

	"github.com/goccy/go-yaml/ast"
)

// Options says what Parse cannot know by itself.
type Options struct {
	File string // the name that errors show; "" shows none
	// Objects is the name of the document that ParseWith takes the objects from.
	Objects string
	// Filters checks the configuration of each filter that exists; a name that
	// is not here is an error. Nil: any name passes unchecked.
	Filters map[string]func(Node) error
	// Host is where defaults come from; nil: this process's host and user.
	Host *Host
}

// objectSections are the sections that an adopted document owns; the others
// are settings of the node and live in its file.
var objectSections = []string{"listeners", "routes", "pools", "services"}

// Parse reads a whole document, fills in the defaults and validates it. The
// error is an Errors that holds everything that is wrong. It may be called
// concurrently.
func Parse(data []byte, o Options) (*Config, error) {
	p := newParse(o)
	p.read(o.File, data, func(string) section { return readIt })
	return p.finish()
}

// ParseWith reads the node's settings from one document (o.File) and the
// objects from another (o.Objects). Objects in the settings document are not
// looked at; settings in the objects document are errors.
func ParseWith(settings, objects []byte, o Options) (*Config, error) {
	p := newParse(o)
	p.read(o.File, settings, func(key string) section {
		if slices.Contains(objectSections, key) {
			return skipIt
		}
		return readIt
	})
	p.read(o.Objects, objects, func(key string) section {
		if p.shape.isSetting(key) {
			return refuseIt
		}
		return readIt
	})
	return p.finish()
}

// section is what becomes of a top-level key.
type section int

const (
	readIt section = iota
	skipIt
	refuseIt
)

// parse is one reading of a configuration out of one or two documents.
type parse struct {
	options Options
	config  *Config
	shape   *shape
	places  map[any]Node
	failed  map[ast.Node]bool // what did not read: no more is said of it
	partial bool              // a document was not read to its end
	errs    Errors
}

func newParse(o Options) *parse {
	p := &parse{options: o, config: &Config{}, shape: shapeOf(reflect.TypeFor[Config]()), places: map[any]Node{}, failed: map[ast.Node]bool{}}
	p.shape.setDefaults(reflect.ValueOf(p.config).Elem())
	return p
}

// read decodes the sections of a document that choose wants.
func (p *parse) read(file string, data []byte, choose func(key string) section) {
	doc, err := open(file, data)
	if err != nil {
		p.errs, p.partial = append(p.errs, err), true
		return
	}
	if doc.root == nil {
		return
	}
	d := newDecoder(doc, p.places)
	d.failed = p.failed
	defer func() {
		p.errs = append(p.errs, d.errs...)
		p.partial = p.partial || len(d.errs) >= maxErrors
	}()
	root, ok := d.plain(doc.root)
	if !ok {
		return
	}
	entries, ok := d.entries(root, field{key: "the document"})
	if !ok {
		return
	}
	for _, e := range entries {
		f, known := p.shape.fields[e.key]
		switch {
		case !known:
			d.errorf(e.node.Key, CodeUnknownKey, nearest(e.key, p.shape.keys), "unknown key %q", e.key)
		case choose(e.key) == readIt:
			d.at(e.key, e.node.Value, reflect.ValueOf(p.config).Elem().FieldByIndex(f.index), f)
		case choose(e.key) == refuseIt:
			d.errorf(e.node.Key, CodeSection, "set it in the node's own file", "%s is a setting of the node, not an object", e.key)
		}
	}
}

func (s *shape) isSetting(key string) bool {
	_, known := s.fields[key]
	return known && !slices.Contains(objectSections, key)
}

// finish fills in what depends on the host, validates, and gives the result.
func (p *parse) finish() (*Config, error) {
	host := p.options.Host
	if host == nil {
		host = thisHost()
	}
	host.fill(p.config)
	if !p.partial {
		newValidator(p).all()
	}
	if err := p.errs.sorted(); err != nil {
		return nil, err
	}
	return p.config, nil
}

// Pool is the pool of that name, or nil.
func (c *Config) Pool(name string) *Pool {
	for _, p := range c.Pools {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Listener is the listener of that name, or nil.
func (c *Config) Listener(name string) *Listener {
	for _, l := range c.Listeners {
		if l.Name == name {
			return l
		}
	}
	return nil
}

// ID is the backend's identity in a pool.
func (b Backend) ID(pool string) BackendID { return BackendID{pool, b.Address} }

// Files are the files whose contents the workers need (certificates, keys,
// CAs, what filters name if Options.Filters checked them), each once, sorted, named as the document names them: a relative name
// is relative to the document's directory, which the reader of files knows.
// Files that only the supervisor reads (the cluster key) are not here.
func (c *Config) Files() []string {
	names := map[string]bool{}
	for _, l := range c.Listeners {
		if l.TLS == nil {
			continue
		}
		names[l.TLS.ClientCA] = true
		for _, f := range l.TLS.Certificates {
			names[f.Cert], names[f.Key] = true, true
		}
	}
	for _, r := range c.Routes {
		for _, f := range r.Filters {
			for _, file := range f.files {
				names[file.name] = true
			}
		}
	}
	for _, p := range c.Pools {
		if p.TLS != nil {
			names[p.TLS.CA], names[p.TLS.Cert], names[p.TLS.Key] = true, true, true
		}
	}
	delete(names, "")
	return keys(names)
}
