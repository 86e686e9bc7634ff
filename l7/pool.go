package l7

import "github.com/cirque-lb/lb"

// Pool is a pool as it is built into a snapshot.
type Pool struct {
	Config *lb.Pool
}

// Name returns the pool's name.
func (p *Pool) Name() string { return p.Config.Name }

// Backend is one server of a pool, as it is built into a snapshot.
type Backend struct {
	Config *lb.Backend
}

// Address returns the backend's address.
func (b *Backend) Address() string { return b.Config.Address }
