package load

// publisherID is the number that a publisher's messages carry.
const publisherID = publisher << classShift

// openFanout connects the subscribers, then the publisher.
func (c *client) openFanout() error {
	subscribers := &group{c: c, class: active, name: "subscriber", depth: 1}
	if err := c.greet(subscribers, 'S', c.spec.Conns); err != nil {
		return err
	}
	source := &group{c: c, class: publisher, name: "publisher", depth: 1}
	if err := c.greet(source, 'P', 1); err != nil {
		return err
	}
	m := newMessages(c.spec.Size, 1)
	m.from = publisherID
	subscribers.proto, source.proto = m, m
	c.begin = func() error { return publish(source, subscribers) }
	return nil
}

// greet opens n connections that each say what they are and hear it again.
func (c *client) greet(g *group, role byte, n int) error {
	c.handlers[g.class] = g
	g.proto = &greeting{role: [1]byte{role}}
	if err := g.grow(n); err != nil {
		return err
	}
	for i := range g.streams {
		s := &g.streams[i]
		s.want, s.sent, s.got = 0, 0, 0
	}
	return nil
}

// publish sends one message, which is due at every subscriber. Nothing is due
// at the publisher: what comes there is an error.
func publish(source, subscribers *group) error {
	now := source.c.clock()
	for i := range uint32(len(subscribers.streams)) {
		subscribers.expect(i, 1, now)
		subscribers.streams[i].sent++ // subscribers send nothing
	}
	s := &source.streams[0]
	s.want++
	s.got++
	return source.flush(0)
}
