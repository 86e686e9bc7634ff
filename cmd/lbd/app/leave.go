package app

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// packets is who captures; nil without a datapath.
func (d *daemon) packets() capturer {
	if d.path == nil {
		return nil
	}
	return d.path.Datapath
}

// depart makes us drain and exit, as SIGTERM does.
func (d *daemon) depart() {
	select {
	case d.signals <- unix.SIGTERM:
	default: // as many signals wait as there is room for
	}
}

// leave drains and ends the workers. A second signal cuts it short. The node
// is dismissed before the sockets go, so that nothing is steered to them again.
func (d *daemon) leave(dismiss func()) error {
	_ = notify("STOPPING=1")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d.work.Go(func() {
		for {
			select {
			case s := <-d.signals:
				if s == unix.SIGTERM || s == unix.SIGINT {
					cancel()
				}
			case <-ctx.Done():
				return
			}
		}
	})
	d.withdraw(ctx)
	dismiss()
	var errs []error
	if d.path != nil {
		errs = append(errs, d.path.release())
	}
	return errors.Join(append(errs, d.fleet.Shutdown(ctx))...)
}

// leaveTime bounds the good-bye to peers.
const leaveTime = 2 * time.Second

// withdraw makes new connections go elsewhere before the listeners close, and
// waits for those that are here. Where there is no elsewhere, the node is told
// that it leaves, and closing the listeners is the way.
func (d *daemon) withdraw(ctx context.Context) {
	select {
	case <-d.node.Serving():
	default:
		return // there was nothing to withdraw yet
	}
	if d.cluster == nil {
		bounded, cancel := context.WithCancel(ctx)
		cancel()
		_ = d.node.Leave(bounded)
		return
	}
	if err := d.node.Leave(ctx); err != nil {
		d.log.Warn("leave", "err", err)
	}
	bounded, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	if err := d.cluster.Leave(bounded); err != nil {
		d.log.Warn("say good-bye", "err", err)
	}
}

// close lets go of everything; workers that were not shut down serve on.
func (d *daemon) close() {
	if d.found != nil {
		d.found.Close()
	}
	if d.cluster != nil {
		_ = d.cluster.Close()
	}
	if d.path != nil {
		_ = d.path.Close()
	}
	for _, l := range []net.Listener{d.socket, d.readOnly, d.http} {
		if l != nil {
			_ = l.Close()
		}
	}
	if d.readOnly != nil {
		_ = os.Remove(d.config.Admin.ReadOnlySocket)
	}
	if d.socket != nil && d.kept.admin == 0 && !d.stays {
		_ = os.Remove(d.config.Admin.Socket)
	}
	if d.audit != nil {
		_ = d.audit.Close()
	}
	if d.fleet != nil {
		_ = d.fleet.Close()
	}
}
