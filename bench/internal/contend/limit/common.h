/*
 * What the servers of the limit share: their sockets and the protocol of a
 * server process, which contend.go describes at Serve.
 */
#ifndef COMMON_H
#define COMMON_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* Descriptors are smaller than this: what is kept for one is in an array, whose
 * pages take no memory before they are written. */
#define MOST_FDS (1 << 20)

__attribute__((noreturn)) static inline void fail(const char *what)
{
	perror(what);
	exit(1);
}

/* raise_limit allows as many descriptors as the system does, as Go programs do. */
static inline void raise_limit(void)
{
	struct rlimit most;
	if (getrlimit(RLIMIT_NOFILE, &most) < 0)
		fail("getrlimit");
	most.rlim_cur = most.rlim_max < MOST_FDS ? most.rlim_max : MOST_FDS;
	if (setrlimit(RLIMIT_NOFILE, &most) < 0)
		fail("setrlimit");
}

static inline void set_option(int fd, int level, int name, int value)
{
	if (setsockopt(fd, level, name, &value, sizeof value) < 0)
		fail("setsockopt");
}

/* bound is a socket on a free port of 127.0.0.1. */
static inline int bound(int type)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		fail("socket");
	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (bind(fd, (struct sockaddr *)&addr, sizeof addr) < 0)
		fail("bind");
	return fd;
}

/* announce tells the address on standard output. */
static inline void announce(int fd)
{
	struct sockaddr_in addr;
	socklen_t size = sizeof addr;
	if (getsockname(fd, (struct sockaddr *)&addr, &size) < 0)
		fail("getsockname");
	printf("listening 127.0.0.1:%d\n", ntohs(addr.sin_port));
	if (fflush(stdout) != 0)
		fail("stdout");
}

/* listen_tcp listens. What is accepted inherits TCP_NODELAY, on Linux. */
static inline int listen_tcp(void)
{
	int fd = bound(SOCK_STREAM | SOCK_NONBLOCK);
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (listen(fd, 65535) < 0)
		fail("listen");
	return fd;
}

/* watch adds fd to the epoll instance. */
static inline void watch(int ep, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.fd = fd};
	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event) < 0)
		fail("epoll_ctl");
}

/* rewatch changes what fd is watched for. */
static inline void rewatch(int ep, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.fd = fd};
	if (epoll_ctl(ep, EPOLL_CTL_MOD, fd, &event) < 0)
		fail("epoll_ctl");
}

/* accept_one is the next connection, -1 when there is none. */
static inline int accept_one(int listener)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0)
			return fd;
		if (errno == EAGAIN)
			return -1;
		/* What has happened to a connection that is gone is its own affair
		 * (accept(2)); without descriptors, the comparison has failed. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			fail("accept4");
	}
}

/* commands reads what has come on standard input and answers it; at its end the
 * program ends. */
static inline void commands(void)
{
	static char line[256];
	static size_t length;
	ssize_t n = read(STDIN_FILENO, line + length, sizeof line - length);
	if (n < 0 && errno == EINTR)
		return;
	if (n < 0)
		fail("stdin");
	if (n == 0)
		exit(0);
	length += (size_t)n;
	for (char *end; (end = memchr(line, '\n', length)) != NULL;) {
		static const char answer[] = "heap -1\n";
		size_t used = (size_t)(end - line) + 1;
		if (used != 5 || memcmp(line, "heap\n", 5) != 0) {
			fprintf(stderr, "unknown command %.*s", (int)used, line);
			exit(1);
		}
		if (write(STDOUT_FILENO, answer, sizeof answer - 1) != sizeof answer - 1)
			fail("stdout");
		length -= used;
		memmove(line, line + used, length);
	}
	if (length == sizeof line) {
		fprintf(stderr, "the command is too long\n");
		exit(1);
	}
}

/* would_block reports whether an operation failed for now only. */
static inline int would_block(void) { return errno == EAGAIN || errno == EINTR; }

#endif
