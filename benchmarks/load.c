// Load for benchmarks/datapath.py: a sink, and clients that stream, connect or send small packets. One number each.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BURST 32
#define BLOCK (256 * 1024)

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static int tcp_to(const struct sockaddr_in *to)
{
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || connect(fd, (const void *)to, sizeof(*to)))
		err(1, "connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void ask(int fd, char verb)
{
	if (write(fd, &verb, 1) != 1)
		err(1, "write");
}

/* First byte of a connection: C answer one byte, S swallow, U answer how many datagrams came. */
static void serve(int fd, uint64_t *datagrams)
{
	static char block[BLOCK];
	char verb;

	if (read(fd, &verb, 1) != 1)
		return;
	if (verb == 'S') {
		if (fork() == 0) {
			while (read(fd, block, sizeof(block)) > 0)
				;
			_exit(0);
		}
	} else if (verb == 'U') {
		uint64_t count = __atomic_load_n(datagrams, __ATOMIC_RELAXED);

		if (write(fd, &count, sizeof(count)) < 0)
			warn("write");
	} else if (write(fd, &verb, 1) < 0) {
		warn("write");
	}
}

static void count_datagrams(int fd, uint64_t *datagrams)
{
	static char buffers[BURST][128];
	struct iovec vectors[BURST];
	struct mmsghdr messages[BURST] = {};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 0; i < BURST; i++) {
		vectors[i] = (struct iovec){ buffers[i], sizeof(buffers[i]) };
		messages[i].msg_hdr.msg_iov = &vectors[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	for (;;) {
		int got = recvmmsg(fd, messages, BURST, MSG_WAITFORONE, NULL);

		if (got > 0)
			__atomic_fetch_add(datagrams, got, __ATOMIC_RELAXED);
	}
}

static void sink(struct sockaddr_in at)
{
	uint64_t *datagrams = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int one = 1, room = 1 << 24, udp = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0);

	signal(SIGCHLD, SIG_IGN);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setsockopt(tcp, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(udp, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	if (bind(udp, (void *)&at, sizeof(at)) || bind(tcp, (void *)&at, sizeof(at)) || listen(tcp, 4096))
		err(1, "bind");
	if (fork() == 0)
		count_datagrams(udp, datagrams);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int fd = accept(tcp, NULL, NULL);

		if (fd < 0)
			continue;
		serve(fd, datagrams);
		close(fd);
	}
}

static double stream(const struct sockaddr_in *to, double seconds)
{
	static char block[BLOCK];
	double start = now();
	uint64_t sent = 0;
	int fd = tcp_to(to);

	ask(fd, 'S');
	while (now() - start < seconds) {
		ssize_t part = write(fd, block, sizeof(block));

		if (part < 0)
			err(1, "write");
		sent += part;
	}
	shutdown(fd, SHUT_WR);
	if (read(fd, block, 1) < 0)
		err(1, "read");
	return sent * 8 / (now() - start) / 1e9;
}

static double connections(const struct sockaddr_in *to, double seconds)
{
	double start = now();
	uint64_t done = 0;
	char verb;

	for (; now() - start < seconds; done++) {
		int fd = tcp_to(to);

		ask(fd, 'C');
		if (read(fd, &verb, 1) != 1)
			err(1, "read");
		close(fd);
	}
	return done / (now() - start);
}

static uint64_t received(const struct sockaddr_in *to)
{
	uint64_t count;
	int fd = tcp_to(to);

	ask(fd, 'U');
	if (read(fd, &count, sizeof(count)) != sizeof(count))
		err(1, "read");
	close(fd);
	return count;
}

static double packets(const struct sockaddr_in *to, double seconds)
{
	char payload[18] = "";
	struct iovec vector = { payload, sizeof(payload) };
	struct mmsghdr messages[BURST] = {};
	uint64_t before = received(to);
	double start, took;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0 || connect(fd, (const void *)to, sizeof(*to)))
		err(1, "connect");
	for (int i = 0; i < BURST; i++) {
		messages[i].msg_hdr.msg_iov = &vector;
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	start = now();
	while (now() - start < seconds)
		if (sendmmsg(fd, messages, BURST, 0) < 0)
			err(1, "sendmmsg");
	took = now() - start;
	usleep(50000);
	return (received(to) - before) / took;
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	double seconds;

	if (argc < 4 || inet_pton(AF_INET, argv[2], &address.sin_addr) != 1)
		errx(2, "usage: load sink|stream|connections|packets ADDRESS PORT [SECONDS]");
	address.sin_port = htons(atoi(argv[3]));
	seconds = argc > 4 ? atof(argv[4]) : 1;
	if (!strcmp(argv[1], "sink"))
		sink(address);
	printf("%f\n", !strcmp(argv[1], "stream")	 ? stream(&address, seconds) :
		       !strcmp(argv[1], "connections") ? connections(&address, seconds) :
							 packets(&address, seconds));
	return 0;
}
