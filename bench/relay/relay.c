/* SPDX-License-Identifier: Apache-2.0
 *
 * A blind TCP relay: the least work a proxy can do per request, as a floor for
 * the CPU numbers. One epoll loop; each client connection gets a backend
 * connection of its own; bytes are read and written, never looked at.
 *
 *   relay LISTEN_PORT BACKEND_PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FD = 65536, EVENTS = 256, CHUNK = 65536 };

static int peer[MAX_FD]; /* the other side of each relayed socket; 0: none */
static char chunk[CHUNK];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static struct sockaddr_in loopback(int port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
				     .sin_port = htons(port),
				     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static void watch(int ep, int fd)
{
	struct epoll_event e = { .events = EPOLLIN, .data.fd = fd };

	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e))
		die("epoll_ctl");
}

static void drop(int fd)
{
	int other = peer[fd];

	peer[fd] = peer[other] = 0;
	close(fd);
	close(other);
}

static void accept_all(int ep, int listener, int backend_port)
{
	struct sockaddr_in to = loopback(backend_port);
	int client, backend, one = 1;

	while ((client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		backend = socket(AF_INET, SOCK_STREAM, 0);
		/* Loopback: a blocking connect ends at once. */
		if (backend < 0 || client >= MAX_FD || backend >= MAX_FD ||
		    connect(backend, (struct sockaddr *)&to, sizeof(to)))
			die("connect");
		setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		setsockopt(backend, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		peer[client] = backend;
		peer[backend] = client;
		watch(ep, client);
		watch(ep, backend);
	}
}

static void relay(int fd)
{
	ssize_t n, done, w;

	if (!peer[fd]) /* dropped earlier in this turn */
		return;
	n = read(fd, chunk, sizeof(chunk));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		drop(fd);
		return;
	}
	for (done = 0; done < n; done += w) {
		w = write(peer[fd], chunk + done, n - done);
		if (w < 0 && (errno == EAGAIN || errno == EINTR))
			w = 0;
		else if (w < 0) {
			drop(fd);
			return;
		}
	}
}

int main(int argc, char **argv)
{
	struct epoll_event events[EVENTS];
	struct sockaddr_in at;
	int ep, listener, n, one = 1;

	if (argc != 3) {
		fprintf(stderr, "usage: relay LISTEN_PORT BACKEND_PORT\n");
		return 2;
	}
	at = loopback(atoi(argv[1]));
	ep = epoll_create1(0);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&at, sizeof(at)) || listen(listener, 1024))
		die("listen");
	watch(ep, listener);
	for (;;) {
		n = epoll_wait(ep, events, EVENTS, -1);
		for (int i = 0; i < n; i++) {
			if (events[i].data.fd == listener)
				accept_all(ep, listener, atoi(argv[2]));
			else
				relay(events[i].data.fd);
		}
	}
}
