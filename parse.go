package lb

import (
	"reflect"
	"strings"
)

// Options says what Parse cannot know by itself.
type Options struct {
	File string // the name that errors show; "" shows none
	// Objects is the name of the document that ParseWith takes the objects from.
	Objects string
	// Filters checks the configuration of each filter that exists; a name that
	// is not here is an error. Nil: any name passes unchecked.
	Filters map[string]func(Node) error
}

// Parse reads a whole document, fills in the defaults and validates it. The
// error is an Errors that holds everything that is wrong.
func Parse(data []byte, o Options) (*Config, error) {
	doc, err := open(o.File, data)
	if err != nil {
		return nil, Errors{err}
	}
	c := &Config{}
	d := newDecoder(doc)
	d.root(c)
	if err := d.errs.sorted(); err != nil {
		return nil, err
	}
	return c, nil
}

// ParseWith reads node settings from one document (o.File) and the objects
// from another (o.Objects). Objects in the settings document are not looked
// at; settings in the objects document are errors.
func ParseWith(settings, objects []byte, o Options) (*Config, error) {
	merged := strings.TrimRight(string(Settings(settings)), "\n") + "\n" + string(objects)
	return Parse([]byte(merged), o) // places are those of the merged text, for now
}

// root reads a whole document into c.
func (d *decoder) root(c *Config) {
	v := reflect.ValueOf(c).Elem()
	if d.doc.root == nil {
		shapeOf(v.Type()).setDefaults(v)
		return
	}
	d.value(d.doc.root, v, field{key: "the document"})
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
// CAs), each once, sorted. Files that only the supervisor reads are not here.
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
	for _, p := range c.Pools {
		if p.TLS != nil {
			names[p.TLS.CA], names[p.TLS.Cert], names[p.TLS.Key] = true, true, true
		}
	}
	delete(names, "")
	return keys(names)
}
