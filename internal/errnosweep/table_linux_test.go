package errnosweep

import "strings"

// documented is a syscall with the errors of its manual page (man-pages 6.03),
// EWOULDBLOCK being EAGAIN. What the page of accept(2) says that Linux passes on
// from the network is there too.
type documented struct {
	call   string
	page   string
	named  []string // how the library's errors name it, as package net does
	errnos string
}

var table = []documented{
	{"epoll_create1", "epoll_create1(2)", nil, "EINVAL EMFILE ENFILE ENOMEM"},
	{"eventfd2", "eventfd(2)", nil, "EINVAL EMFILE ENFILE ENODEV ENOMEM"},
	{"epoll_ctl", "epoll_ctl(2)", nil, "EBADF EEXIST EINVAL ELOOP ENOENT ENOMEM ENOSPC EPERM"},
	{"epoll_pwait", "epoll_wait(2)", []string{"epoll_wait"}, "EBADF EFAULT EINTR EINVAL"},
	{"socket", "socket(2)", nil, "EACCES EAFNOSUPPORT EINVAL EMFILE ENFILE ENOBUFS ENOMEM EPROTONOSUPPORT"},
	{"bind", "bind(2)", nil, "EACCES EADDRINUSE EADDRNOTAVAIL EBADF EFAULT EINVAL ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR ENOTSOCK EROFS"},
	{"listen", "listen(2)", nil, "EADDRINUSE EBADF ENOTSOCK EOPNOTSUPP"},
	{"accept4", "accept(2)", []string{"accept"}, "EAGAIN EBADF ECONNABORTED EFAULT EINTR EINVAL EMFILE ENFILE ENOBUFS ENOMEM ENOTSOCK EPERM" +
		" EPROTO ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH EOPNOTSUPP ENETUNREACH ENOSR ESOCKTNOSUPPORT EPROTONOSUPPORT ETIMEDOUT"},
	{"connect", "connect(2)", nil, "EACCES EADDRINUSE EADDRNOTAVAIL EAFNOSUPPORT EAGAIN EALREADY EBADF ECONNREFUSED EFAULT EINPROGRESS EINTR" +
		" EISCONN ENETUNREACH ENOTSOCK EPERM EPROTOTYPE ETIMEDOUT"},
	{"recvfrom", "recv(2), tcp(7)", []string{"read", "recvfrom"}, "EAGAIN EBADF ECONNREFUSED EFAULT EINTR EINVAL ENOMEM ENOTCONN ENOTSOCK ECONNRESET ETIMEDOUT"},
	{"sendto", "send(2)", []string{"write", "sendto"}, "EACCES EAGAIN EALREADY EBADF ECONNRESET EDESTADDRREQ EFAULT EINTR EINVAL EISCONN EMSGSIZE" +
		" ENOBUFS ENOMEM ENOTCONN ENOTSOCK EOPNOTSUPP EPIPE"},
	{"recvmmsg", "recvmmsg(2), recv(2)", nil, "EAGAIN EBADF ECONNREFUSED EFAULT EINTR EINVAL ENOMEM ENOTCONN ENOTSOCK"},
	{"sendmmsg", "sendmmsg(2), send(2)", nil, "EACCES EAGAIN EALREADY EBADF ECONNRESET EDESTADDRREQ EFAULT EINTR EINVAL EISCONN EMSGSIZE" +
		" ENOBUFS ENOMEM ENOTCONN ENOTSOCK EOPNOTSUPP EPIPE"},
	{"close", "close(2)", nil, "EBADF EINTR EIO ENOSPC EDQUOT"},
	{"shutdown", "shutdown(2)", nil, "EBADF EINVAL ENOTCONN ENOTSOCK"},
	{"getsockopt", "getsockopt(2)", nil, "EBADF EFAULT EINVAL ENOPROTOOPT ENOTSOCK"},
	{"setsockopt", "setsockopt(2)", nil, "EBADF EFAULT EINVAL ENOPROTOOPT ENOTSOCK"},
	{"getsockname", "getsockname(2)", nil, "EBADF EFAULT EINVAL ENOBUFS ENOTSOCK"},
	{"getpeername", "getpeername(2)", nil, "EBADF EFAULT EINVAL ENOBUFS ENOTCONN ENOTSOCK"},
	{"fcntl", "fcntl(2)", nil, "EACCES EAGAIN EBADF EBUSY EINTR EINVAL EMFILE EPERM"},
	{"write", "write(2), eventfd(2)", nil, "EAGAIN EBADF EDESTADDRREQ EDQUOT EFAULT EFBIG EINTR EINVAL EIO ENOSPC EPERM EPIPE"},
}

// wakeCall is the call that is swept with the probe of wakes.
const wakeCall = "write"

func (d documented) list() []string { return strings.Fields(d.errnos) }

// names reports whether call, of an error, is this one: its name, and perhaps
// more, as an option's.
func (d documented) names(call string) bool {
	name, _, _ := strings.Cut(call, " ")
	for _, n := range d.named {
		if n == name {
			return true
		}
	}
	return name == d.call
}

// answer is what an injected error may do to the activity that it hits. Any
// other outcome is a failure, and other activities go on as if nothing happened.
type answer uint8

const (
	mayFail   answer = 1 << iota // an error that names the call and is the errno
	mayHeal                      // nothing to be seen
	mayExpire                    // the activity's deadline ends it
	endsRun                      // Run returns the error, and Close closes the rest
)

// answerTo is what the errno may do. edge says that the activity is
// edge-triggered.
func (d documented) answerTo(errno string, edge bool) answer {
	switch errno {
	case "EINTR":
		if d.call == "close" {
			return mayHeal | mayExpire // strace has not made the call, so a peer may wait for the end
		}
		return mayHeal
	case "EAGAIN":
		switch d.call {
		case "accept4", "recvfrom", "sendto", "recvmmsg", "sendmmsg":
			if edge {
				// It can't be told from a true one, and a true one is followed by an
				// edge: waiting for that is right.
				return mayHeal | mayExpire
			}
			return mayHeal // the next event comes at once, or the next wait asks for it
		}
	}
	switch d.call {
	case "epoll_pwait":
		return endsRun
	case "accept4":
		switch errno {
		case "EBADF", "EFAULT", "EINVAL", "ENOTSOCK", "ESOCKTNOSUPPORT", "EPROTONOSUPPORT", "ENOSR":
			if edge {
				return mayFail | mayHeal // AcceptET returns what it has, and the error is to come again
			}
			return mayFail
		}
		return mayHeal // the network's, passed over; lack of memory or descriptors, after a rest
	case "connect":
		if errno == "EINPROGRESS" {
			return mayFail | mayExpire // UDP has none; TCP waits for what never began
		}
		if errno == "ECONNREFUSED" {
			return mayFail | mayHeal // it may be the one that was expected
		}
		return mayFail
	case wakeCall:
		return mayHeal // there is another way to ring
	case "epoll_ctl":
		return mayFail | mayHeal // a wait that is refused is tried once more, and Remove and Detach tell
	case "shutdown", "close":
		return mayFail | mayHeal // Linger closes all the same, and an earlier error goes before one of close
	case "getsockname", "getpeername":
		if errno == "ENOTCONN" {
			return mayFail | mayHeal | mayExpire // to Dial it says that the attempt still goes on
		}
		return mayFail | mayHeal // LocalAddr and RemoteAddr can't tell why they know none
	case "recvfrom":
		return mayFail | mayHeal // Linger drops what it reads; a reset may be the one that was expected
	case "recvmmsg":
		if edge {
			return mayFail | mayHeal // ReadFromET returns what it has, and nobody reads once more
		}
	}
	return mayFail
}

// shown is the errno as an error may show it: ENOTSUP is the same number. After
// EEXIST the poller asks for a change of the registration, which there is not.
// Dial takes getpeername's EINVAL, macOS's word for it, for a reset.
func (d documented) shown(errno string) []string {
	switch {
	case errno == "EOPNOTSUPP":
		return []string{"ENOTSUP"}
	case errno == "EEXIST" && d.call == "epoll_ctl":
		return []string{errno, "ENOENT"}
	case errno == "EINVAL" && d.call == "getpeername":
		return []string{errno, "ECONNRESET"}
	}
	return []string{errno}
}
