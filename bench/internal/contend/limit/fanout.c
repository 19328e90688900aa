/*
 * The limit of one to many on one thread: what the publishers send goes into a
 * ring, and from there to each subscriber by one send. A subscriber whose socket
 * is full keeps its place in the ring; while the slowest one leaves no room,
 * the publishers are not read.
 */
#include "common.h"

enum { message = 64, ring_size = 1 << 20 };

enum kind { GREETING, SUBSCRIBER, PUBLISHER };

/* A connection, by descriptor. */
static struct conn {
	enum kind kind;
	int place;         /* in subscribers or publishers */
	int blocked;       /* a subscriber that waits for room in its socket */
	size_t part_size;  /* of a publisher's message that is not whole yet */
	uint64_t position; /* a subscriber's: what it has got of all that was published */
	char part[message];
} *conns[MOST_FDS];

struct list {
	int *fds;
	int length, room;
};

static struct list subscribers, publishers;
static char ring[ring_size];
static uint64_t head; /* bytes published, ever */
static int blocked;   /* how many subscribers are */
static int paused;    /* the publishers are not read */
static char buffer[64 << 10];
static int ep;

static void list_add(struct list *list, int fd)
{
	if (list->length == list->room) {
		list->room = list->room ? 2 * list->room : 64;
		list->fds = realloc(list->fds, (size_t)list->room * sizeof *list->fds);
		if (list->fds == NULL)
			fail("realloc");
	}
	conns[fd]->place = list->length;
	list->fds[list->length++] = fd;
}

static void list_remove(struct list *list, int fd)
{
	int place = conns[fd]->place, last = list->fds[--list->length];
	list->fds[place] = last;
	conns[last]->place = place;
}

/* free_room is how many bytes of the ring every subscriber has got. */
static size_t free_room(void)
{
	uint64_t tail = head;
	for (int i = 0; blocked > 0 && i < subscribers.length; i++) {
		uint64_t position = conns[subscribers.fds[i]]->position;
		if (position < tail)
			tail = position;
	}
	return ring_size - (size_t)(head - tail);
}

/* steer reads the publishers while the ring has room for all that is read. */
static void steer(void)
{
	int full = free_room() < sizeof buffer;
	if (full == paused)
		return;
	paused = full;
	for (int i = 0; i < publishers.length; i++)
		rewatch(ep, publishers.fds[i], paused ? 0 : EPOLLIN);
}

static void hang_up(int fd)
{
	struct conn *c = conns[fd];
	if (c->kind == SUBSCRIBER) {
		list_remove(&subscribers, fd);
		blocked -= c->blocked;
	} else if (c->kind == PUBLISHER) {
		list_remove(&publishers, fd);
	}
	free(c);
	conns[fd] = NULL;
	close(fd);
}

/* deliver sends a subscriber what it has not got yet. A failure is left to the
 * event that comes with it, whose handling closes the connection: another event of
 * it may be in the batch already. */
static void deliver(int fd)
{
	struct conn *c = conns[fd];
	while (c->position < head) {
		size_t begin = c->position % ring_size, size = (size_t)(head - c->position);
		if (size > ring_size - begin)
			size = ring_size - begin;
		ssize_t n = send(fd, ring + begin, size, MSG_NOSIGNAL);
		if (n < 0 && !would_block())
			c->position = head;
		if (n < 0)
			break;
		c->position += (uint64_t)n;
	}
	int full = c->position < head;
	if (full == c->blocked)
		return;
	c->blocked = full;
	blocked += full ? 1 : -1;
	rewatch(ep, fd, full ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void publish(const char *data, size_t size)
{
	size_t begin = head % ring_size, first = ring_size - begin;
	if (first > size)
		first = size;
	memcpy(ring + begin, data, first);
	memcpy(ring, data + first, size - first);
	head += size;
	for (int i = 0; i < subscribers.length; i++)
		if (!conns[subscribers.fds[i]]->blocked)
			deliver(subscribers.fds[i]);
	if (blocked > 0)
		steer();
}

/* greet takes the first byte, which says what the connection is. */
static void greet(int fd)
{
	struct conn *c = conns[fd];
	char kind;
	ssize_t n = recv(fd, &kind, 1, 0);
	if (n < 0 && would_block())
		return;
	if (n != 1 || (kind != 'S' && kind != 'P') || send(fd, &kind, 1, MSG_NOSIGNAL) != 1) {
		hang_up(fd);
	} else if (kind == 'S') {
		c->kind = SUBSCRIBER;
		c->position = head;
		list_add(&subscribers, fd);
	} else {
		c->kind = PUBLISHER;
		list_add(&publishers, fd);
		if (paused)
			rewatch(ep, fd, 0);
	}
}

/* hear takes what a publisher has sent, and publishes the whole messages. */
static void hear(int fd)
{
	struct conn *c = conns[fd];
	memcpy(buffer, c->part, c->part_size);
	ssize_t n = recv(fd, buffer + c->part_size, sizeof buffer - c->part_size, 0);
	if (n <= 0) {
		if (n == 0 || !would_block())
			hang_up(fd);
		return;
	}
	size_t size = c->part_size + (size_t)n, whole = size - size % message;
	c->part_size = size - whole;
	memcpy(c->part, buffer + whole, c->part_size);
	if (whole > 0)
		publish(buffer, whole);
}

/* attend handles an event of a subscriber. What it says is not listened to. */
static void attend(int fd, uint32_t events)
{
	if (events & EPOLLOUT && conns[fd]->blocked) {
		deliver(fd);
		steer();
	}
	if (events & ~(uint32_t)EPOLLOUT) {
		ssize_t n = recv(fd, buffer, sizeof buffer, 0);
		if (n == 0 || (n < 0 && !would_block())) {
			hang_up(fd);
			steer();
		}
	}
}

static void served(int fd, uint32_t events)
{
	switch (conns[fd]->kind) {
	case GREETING:
		greet(fd);
		break;
	case SUBSCRIBER:
		attend(fd, events);
		break;
	case PUBLISHER:
		if (events & (EPOLLHUP | EPOLLERR) && paused)
			hang_up(fd);
		else if (!paused)
			hear(fd);
		break;
	}
}

static void welcome(int fd)
{
	if ((conns[fd] = calloc(1, sizeof *conns[fd])) == NULL)
		fail("calloc");
	watch(ep, fd, EPOLLIN);
}

int main(void)
{
	static struct epoll_event events[512];
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
					welcome(conn);
			else if (fd == STDIN_FILENO)
				commands();
			else
				served(fd, events[i].events);
		}
	}
}
