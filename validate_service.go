package lb

import "strings"

// Transport is the protocol of the service's packets.
func (s *Service) Transport() Protocol {
	if s.Protocol == "udp" {
		return UDP
	}
	return TCP
}

func (v *validator) service(s *Service) {
	v.poolExists(&s.Pool, s.Pool, "service")
	a := s.Bind.Addr()
	switch {
	case !a.IsValid(): // reported
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast():
		v.errorf(&s.Bind, CodeServiceBind, "give it an address of its own, which the network routes to this node",
			"service %q cannot be at %s: its packets go on to backends that have the same address", s.Name, a)
	case v.config.Fastpath.Mode == FastpathOff:
		v.errorf(&s.Name, CodeServiceFastpath, "set fastpath.mode to auto", "service %q needs the fast path, and fastpath.mode is off", s.Name)
	case len(v.config.Fastpath.Interfaces) == 0:
		v.errorf(&s.Name, CodeServiceFastpath, "set fastpath.interfaces", "service %q needs an interface with XDP, and fastpath.interfaces is empty", s.Name)
	}
	if p := v.poolOf[s.Pool]; p != nil {
		v.serviceBackends(s, p)
	}
}

// serviceBackends wants backends that packets can be sent to.
func (v *validator) serviceBackends(s *Service, p *Pool) {
	for _, b := range p.Backends {
		if strings.HasPrefix(b.Address, "unix:") {
			v.errorf(&s.Pool, CodeServicePool, "give the service a pool of its own",
				"service %q sends packets, and backend %s%s is a socket's path", s.Name, b.Address, inPool(p.Name))
			return
		}
	}
}
