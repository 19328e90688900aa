/*
 * The limit of a UDP echo in batches: recvmmsg waits for the first datagram and
 * takes what else has come, sendmmsg sends all of it back. There is one socket, so
 * nothing is gained by asking epoll for it; a second thread sleeps on standard
 * input.
 */
#include "common.h"
#include <pthread.h>

enum { batch = 64, room = 64 << 10 };

/* A cache line or two more than a power of two keeps the beginnings of the
 * buffers out of one another's way in the cache. */
static char buffers[batch][room + 192];
static struct sockaddr_in peers[batch];
static struct iovec parts[batch];
static struct mmsghdr messages[batch];

__attribute__((noreturn)) static void *listen_to_commands(void *unused)
{
	(void)unused;
	for (;;)
		commands();
}

/* ready makes the first n messages able to receive. */
static void ready(int n)
{
	for (int i = 0; i < n; i++) {
		parts[i].iov_len = room;
		messages[i].msg_hdr.msg_namelen = sizeof peers[i];
	}
}

/* answer sends the first n messages back. One that cannot be sent is lost, as UDP
 * has it, and stops no other. */
static void answer(int fd, int n)
{
	for (int i = 0; i < n; i++)
		parts[i].iov_len = messages[i].msg_len;
	for (int sent = 0; sent < n;) {
		int k = sendmmsg(fd, messages + sent, (unsigned)(n - sent), 0);
		if (k > 0)
			sent += k;
		else if (errno != EINTR)
			sent++;
	}
}

int main(void)
{
	int fd = bound(SOCK_DGRAM);
	set_option(fd, SOL_SOCKET, SO_RCVBUF, 1 << 20);
	for (int i = 0; i < batch; i++) {
		parts[i].iov_base = buffers[i];
		messages[i].msg_hdr.msg_name = &peers[i];
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	ready(batch);
	announce(fd);
	pthread_t reader;
	if ((errno = pthread_create(&reader, NULL, listen_to_commands, NULL)) != 0)
		fail("pthread_create");
	for (;;) {
		int n = recvmmsg(fd, messages, batch, MSG_WAITFORONE, NULL);
		if (n < 0)
			continue; /* interrupted, or the error of a datagram that was sent earlier */
		answer(fd, n);
		ready(n);
	}
}
