package load

import "time"

// drivePaced sends one message each Pace for a window, on each connection in turn,
// awaits what is under way, and returns the time from the first send to the last
// receive. It never sleeps, so that no message waits for the client, and allocates
// nothing.
//
// A message whose connection still waits for an answer holds up those behind it,
// and the time of each counts from its turn: a server that stalls does not get fewer
// of them, unless it is still behind when the window ends.
func (c *client) drivePaced(window time.Duration) (time.Duration, error) {
	g := c.handlers[active].(*group)
	c.done, c.lost = 0, 0
	start := c.clock()
	c.now, c.progress, c.stop = start, start, start+int64(window)
	behind := start - 1 // turns until then were held up
	for next, due := uint32(0), start; due < c.stop; {
		now := c.clock()
		if now >= c.stop {
			break // more messages than the server can answer
		}
		s := &g.streams[next]
		free := s.got == s.want
		if now >= due && free {
			if due <= behind {
				now = due
			}
			if err := g.send(next, 1, now); err != nil {
				return 0, err
			}
			next, due = (next+1)%uint32(len(g.streams)), due+int64(c.spec.Pace)
			continue
		}
		if now >= due {
			behind = now
		}
		if err := c.turn(0); err != nil {
			return 0, err
		}
		if c.under == 0 {
			c.progress = now
		} else if now-c.progress > int64(c.stall) {
			return 0, c.stalled()
		}
	}
	if err := c.await(); err != nil {
		return 0, err
	}
	return time.Duration(c.progress - start), nil
}
