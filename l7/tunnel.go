package l7

import "github.com/cirque-lb/lb"

// startTunnel passes a 101 on: from now on bytes go both ways and meet no phase.
func (x *exchange) startTunnel(res *Response) {
	if x.session.Request.Upgrade == "" || !x.reqEnd { // unasked, or with a body under way
		x.dropAttempt()
		x.fail(&Error{Status: 502, Source: FromUpstream, Reason: lb.UpstreamProtocol, Sent: true})
		return
	}
	x.dropKept()
	x.headSent = true
	x.status = res.Status
	x.reqEnd = false
	x.deadline = 0
	x.down.sendHead(res, false)
	x.arm(waitTunnelBytes, x.session.Route.Config.Timeout.Tunnel)
}

// tunnelIn passes the client's bytes on.
func (x *exchange) tunnelIn(p []byte, end bool) {
	if x.up == nil {
		return
	}
	x.rearm()
	x.reqEnd = end
	x.up.sendBody(p, end)
	if end && x.resEnd {
		x.finish(nil)
		return
	}
	if x.up.buffered() > highWater {
		x.pauseIn()
	}
}

// tunnelOut passes the backend's bytes on.
func (x *exchange) tunnelOut(p []byte, end bool) {
	x.rearm()
	x.bytesOut += int64(len(p))
	x.resEnd = end
	x.down.sendBody(p, end)
	if end && x.reqEnd {
		x.finish(nil)
		return
	}
	x.pressBack()
}
