package contend

import "fmt"

// A member is one connection of the Fanout service, whatever library carries
// it.
type member struct {
	role byte   // 'S', 'P', or 0 until the first byte has come
	part []byte // of a publisher: the start of a message that is not whole yet
}

// input takes what the connection has sent, cut anywhere, at least one byte.
// answer is what goes back to it; a member that gets one and is now an 'S' has
// just become a subscriber. messages are the whole messages to be published, one
// after the other. Both may share memory with in.
func (m *member) input(in []byte) (answer, messages []byte, err error) {
	if m.role == 0 {
		if in[0] != 'S' && in[0] != 'P' {
			return nil, nil, fmt.Errorf("bench: fan-out: unknown role %q", in[0])
		}
		m.role = in[0]
		answer, in = in[:1], in[1:]
	}
	if m.role == 'S' {
		return answer, nil, nil // nothing that a subscriber says has a meaning
	}
	if len(m.part) > 0 {
		in = append(m.part, in...)
		m.part = nil // messages may lie in its memory
	}
	whole := len(in) - len(in)%FanoutSize
	if whole < len(in) {
		m.part = append([]byte(nil), in[whole:]...)
	}
	return answer, in[:whole], nil
}

// subscribers are the connections that get the messages; T is what the library
// calls a connection. It has no lock.
type subscribers[T any] struct{ list []T }

func (s *subscribers[T]) add(c T) { s.list = append(s.list, c) }

// publish sends to every subscriber and forgets those for which it fails.
func (s *subscribers[T]) publish(send func(T) error) {
	kept := s.list[:0]
	for _, c := range s.list {
		if send(c) == nil {
			kept = append(kept, c)
		}
	}
	clear(s.list[len(kept):])
	s.list = kept
}
