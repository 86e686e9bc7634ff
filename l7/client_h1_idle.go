package l7

// A clientH1 between two requests, where any thread may take it, and what TLS has
// to do with that.

// Watched is called when something happens to an idle connection: its end, or
// bytes that nobody asked for. A sibling may have taken it a moment ago.
func (c *clientH1) Watched() {
	if !c.endpoint.shards[c.thread.index].remove(c) {
		return
	}
	c.endpoint.idle.Add(-1)
	if c.endpoint.secure != nil {
		c.wake() // to read it: a session ticket is no reason to give up
		c.putAway()
		return
	}
	c.thread.counts.stale.Add(1)
	c.close()
}

// secure is TLS's part of connecting.
func (c *clientH1) secure() {
	c.t = c.endpoint.secure.start(c.thread, &c.conn, c, func(err error) {
		x := c.x
		if err != nil {
			c.detach()
			c.close()
			if x == nil {
				c.endpoint.warming.Add(-1)
				return
			}
			x.upstreamFailed(tlsError(err))
			return
		}
		c.serve(x)
	})
}

// rest makes an idle connection leave its socket alone until something
// happens: a sibling may steal it.
func (c *clientH1) rest() {
	c.conn.Use(c)
	c.conn.Watch(true)
}

// wake takes rest back.
func (c *clientH1) wake() {
	c.conn.Watch(false)
	if secure, ok := c.t.(*tlsConn); ok {
		c.conn.Use(secure)
	}
}

// putAway makes the connection available to all threads: at once, or when TLS,
// which is at work below us, has settled.
func (c *clientH1) putAway() {
	if c.endpoint.secure != nil {
		c.idling = true
		return
	}
	c.endpoint.put(c, c.limits)
}

// Settled is the TLS transport's.
func (c *clientH1) Settled() {
	if c.idling && c.state == clientIdle {
		c.idling = false
		c.endpoint.put(c, c.limits)
	}
}
