/*
 * The limit of a UDP echo by a call for each datagram: level-triggered epoll, and
 * recvfrom and sendto until there is nothing more.
 */
#include "common.h"
#include <poll.h>

/* answer sends a datagram back. What cannot be sent is lost, as UDP has it; that
 * the socket is full passes. */
static void answer(int fd, const char *data, size_t size, const struct sockaddr_in *to)
{
	while (sendto(fd, data, size, 0, (const struct sockaddr *)to, sizeof *to) < 0) {
		struct pollfd room = {.fd = fd, .events = POLLOUT};
		if (!would_block())
			return;
		if (poll(&room, 1, -1) < 0 && errno != EINTR)
			fail("poll");
	}
}

static void serve(int fd)
{
	static char buffer[64 << 10];
	for (int i = 0; i < 64; i++) { /* then standard input has its turn */
		struct sockaddr_in from;
		socklen_t size = sizeof from;
		ssize_t n = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &size);
		if (n >= 0)
			answer(fd, buffer, (size_t)n, &from);
		else if (errno == EAGAIN)
			return;
		/* Any other error is of a datagram that was sent earlier. */
	}
}

int main(void)
{
	struct epoll_event events[2];
	int fd = bound(SOCK_DGRAM | SOCK_NONBLOCK);
	set_option(fd, SOL_SOCKET, SO_RCVBUF, 1 << 20);
	int ep = epoll_create1(EPOLL_CLOEXEC);
	if (ep < 0)
		fail("epoll_create1");
	watch(ep, fd, EPOLLIN);
	watch(ep, STDIN_FILENO, EPOLLIN);
	announce(fd);
	for (;;) {
		int n = epoll_wait(ep, events, 2, -1);
		if (n < 0 && errno != EINTR)
			fail("epoll_wait");
		for (int i = 0; i < n; i++)
			if (events[i].data.fd == fd)
				serve(fd);
			else
				commands();
	}
}
