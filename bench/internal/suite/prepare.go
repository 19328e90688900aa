package suite

import (
	"context"
	"fmt"

	"github.com/stepio-go/stepio/bench/internal/contend"
	"github.com/stepio-go/stepio/bench/internal/result"
)

// A member is a contender that takes part, ready to be started.
type member struct {
	contend.Contender
	commands map[contend.Service]command
}

// A command starts a server.
type command struct {
	args []string
	mute bool // see contend.Contender
}

// prepare builds everything before the first window. A contender that cannot be
// had is left out with a note.
func (r *runner) prepare(ctx context.Context) error {
	services := make(map[contend.Service]bool)
	for _, s := range r.cfg.Scenarios {
		services[s.Service] = true
	}
	tagged := make(map[string]built)
	for _, c := range r.cfg.Contenders {
		m := member{Contender: c, commands: make(map[contend.Service]command)}
		for _, service := range []contend.Service{contend.Echo, contend.EchoUDP, contend.HTTP, contend.Fanout} {
			if !services[service] {
				continue
			}
			start, err := r.command(ctx, c, service, tagged)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				r.note("%s (%s): left out: %v", c.Name, service, err)
				continue
			}
			if start.args != nil {
				m.commands[service] = start
			}
		}
		if len(m.commands) == 0 {
			continue
		}
		r.cast = append(r.cast, m)
		r.report.Contend = append(r.report.Contend, result.Contender{Name: c.Name, About: c.About, Limit: c.Limit})
	}
	if len(r.cast) == 0 {
		return fmt.Errorf("no contender is left for these scenarios: %v", r.report.Notes)
	}
	return nil
}

// A built is a binary with build tags, or why there is none.
type built struct {
	args []string
	err  error
}

// command returns what starts a service of the contender; without arguments when
// it does not have that service.
func (r *runner) command(ctx context.Context, c contend.Contender, service contend.Service, tagged map[string]built) (command, error) {
	if c.Program != nil {
		args, err := c.Program(service)
		if err != nil || args != nil {
			return command{args: args, mute: c.Mute}, err
		}
	}
	if c.Starts[service] == nil {
		return command{}, nil
	}
	base := r.cfg.Server
	if c.Tags != "" {
		b, ok := tagged[c.Tags]
		if !ok {
			b.args, b.err = r.cfg.Tagged(ctx, c.Tags)
			tagged[c.Tags] = b
		}
		if b.err != nil {
			return command{}, b.err
		}
		base = b.args
	}
	return command{args: append(append([]string(nil), base...), c.Name, string(service))}, nil
}
