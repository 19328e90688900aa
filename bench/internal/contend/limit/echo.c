/*
 * The limit of a TCP echo on one thread: level-triggered epoll, one registration
 * a connection for its whole life, and in the steady state one recv and one send
 * an event, into one buffer, with no memory of a connection's own.
 *
 * With the argument "edge" it is the same edge-triggered: the kernel does not look
 * a second time at what it has reported. Then it must read until it knows that
 * nothing is left: after a short read nothing is, unless the end was reported, for
 * data and FIN in one event make no second edge.
 */
#include "common.h"

/* What a connection's socket would not take. Until it is sent, the connection is
 * watched for room only, and not read. */
struct rest {
	size_t begin, end;
	char data[];
};

static struct rest *rests[MOST_FDS];
static char buffer[64 << 10];
static int ep;
static uint32_t edge; /* what every registration of a connection adds */

static void hang_up(int fd)
{
	free(rests[fd]);
	rests[fd] = NULL;
	close(fd); /* which ends the registration */
}

static void keep(int fd, const char *data, size_t size)
{
	struct rest *rest = malloc(sizeof *rest + size);
	if (rest == NULL)
		fail("malloc");
	rest->begin = 0;
	rest->end = size;
	memcpy(rest->data, data, size);
	rests[fd] = rest;
	rewatch(ep, fd, EPOLLOUT | edge);
}

/* echo sends back what has come: the result is how much, 0 when it cannot go on
 * before the next event. */
static ssize_t echo(int fd)
{
	ssize_t n = recv(fd, buffer, sizeof buffer, 0);
	if (n <= 0) {
		if (n == 0 || !would_block())
			hang_up(fd);
		return 0;
	}
	ssize_t sent = send(fd, buffer, (size_t)n, MSG_NOSIGNAL);
	if (sent == n)
		return n;
	if (sent < 0) {
		if (!would_block()) {
			hang_up(fd);
			return 0;
		}
		sent = 0;
	}
	keep(fd, buffer + sent, (size_t)(n - sent));
	return 0;
}

static void go_on(int fd)
{
	struct rest *rest = rests[fd];
	ssize_t n = send(fd, rest->data + rest->begin, rest->end - rest->begin, MSG_NOSIGNAL);
	if (n < 0) {
		if (!would_block())
			hang_up(fd);
		return;
	}
	rest->begin += (size_t)n;
	if (rest->begin == rest->end) {
		free(rest);
		rests[fd] = NULL;
		rewatch(ep, fd, EPOLLIN | edge); /* which reports what has come meanwhile */
	}
}

/* served handles an event of a connection. EPOLLIN is not asked for, and so not
 * reported, while there is a rest: the steady state never looks for one. */
static void served(int fd, uint32_t events)
{
	if (events & EPOLLIN || rests[fd] == NULL)
		/* Level-triggered, epoll says so again when there is more. */
		for (ssize_t n; (n = echo(fd)) > 0 && edge && (n == sizeof buffer || events & EPOLLRDHUP);)
			;
	else if (events & (EPOLLHUP | EPOLLERR))
		hang_up(fd); /* nobody can get the rest any more */
	else
		go_on(fd);
}

int main(int argc, char **argv)
{
	static struct epoll_event events[512];
	if (argc > 1 && strcmp(argv[1], "edge") == 0)
		edge = EPOLLET | EPOLLRDHUP;
	raise_limit();
	int listener = listen_tcp();
	if ((ep = epoll_create1(EPOLL_CLOEXEC)) < 0)
		fail("epoll_create1");
	watch(ep, listener, EPOLLIN);
	watch(ep, STDIN_FILENO, EPOLLIN);
	announce(listener);
	for (;;) {
		int n = epoll_wait(ep, events, sizeof events / sizeof *events, -1);
		if (n < 0 && errno != EINTR)
			fail("epoll_wait");
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;
			if (fd == listener)
				for (int conn; (conn = accept_one(listener)) >= 0;)
					watch(ep, conn, EPOLLIN | edge);
			else if (fd == STDIN_FILENO)
				commands();
			else
				served(fd, events[i].events);
		}
	}
}
