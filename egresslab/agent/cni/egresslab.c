/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chained CNI plug-in `egresslab`: asks the node's agent whether a pod may start, and says what it answered.
 *
 * It understands nothing of its input; all thinking is the agent's. It runs on hosts of which nothing is known but the
 * kernel, hence no C library. Nobody there on ADD: an error, so that the runtime tries again. DEL never fails, for a node
 * whose agent is gone must be able to end pods. CHECK, GC and STATUS succeed: the plug-in keeps nothing in a pod, and a
 * node whose STATUS fails would be taken for broken, with every pod on it.
 *
 * Specification: https://www.cni.dev/docs/spec/, sections 2 to 5.
 */
#ifndef SOCKET
#define SOCKET "/run/egresslab-agent/cni.sock"
#endif
#ifndef PATIENCE_MS
#define PATIENCE_MS 10000	/* for an agent that is being replaced */
#endif
#ifndef ADD_MS
#define ADD_MS 30000		/* in all; the agent's own waits are shorter */
#endif
#define DEL_MS 1000
#define PAUSE_MS 100

typedef unsigned long size;
typedef unsigned char byte;

#if defined(__x86_64__)
enum { READ = 0, WRITE = 1, CLOSE = 3, NANOSLEEP = 35, OPEN_SOCKET = 41, CONNECT = 42, CLOCK_GETTIME = 228,
       EXIT_GROUP = 231, PPOLL = 271, RT_SIGPROCMASK = 14 };

static long system_call(long number, long a, long b, long c, long d, long e)
{
	register long fourth __asm__("r10") = d;
	register long fifth __asm__("r8") = e;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth)
			 : "rcx", "r11", "memory");
	return result;
}

__asm__(".global _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");
#elif defined(__aarch64__)
enum { CLOSE = 57, READ = 63, WRITE = 64, PPOLL = 73, EXIT_GROUP = 94, NANOSLEEP = 101, CLOCK_GETTIME = 113,
       RT_SIGPROCMASK = 135, OPEN_SOCKET = 198, CONNECT = 203 };

static long system_call(long number, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}

__asm__(".global _start\n_start:\n\tmov x29, #0\n\tmov x0, sp\n\tbl begin\n");
#else
#error "system calls of this machine are not known here"
#endif

enum { AF_UNIX = 1, SOCK_STREAM = 1, SOCK_NONBLOCK = 04000, SOCK_CLOEXEC = 02000000, CLOCK_MONOTONIC = 1 };
enum { POLLIN = 1, POLLOUT = 4, EINTR = 4, EAGAIN = 11 };
enum { INVALID_ENVIRONMENT = 4, IO_FAILURE = 5, TRY_AGAIN_LATER = 11 };	/* codes of the specification */

struct timespec {
	long seconds, nanoseconds;
};

struct pollfd {
	int file;
	short wanted, found;
};

struct address {
	unsigned short family;
	char path[108];
};

/* What the compiler may call by itself. */
void *memcpy(void *to, const void *from, size length)
{
	byte *out = to;
	const byte *in = from;

	while (length--)
		*out++ = *in++;
	return to;
}

void *memset(void *to, int value, size length)
{
	byte *out = to;

	while (length--)
		*out++ = (byte)value;
	return to;
}

static size length_of(const char *text)
{
	size length = 0;

	while (text[length])
		length++;
	return length;
}

/* Where the text after `prefix` begins, or nothing. */
static const char *after(const char *text, const char *prefix)
{
	while (*prefix)
		if (*text++ != *prefix++)
			return 0;
	return text;
}

static int equal(const char *one, const char *other)
{
	const char *rest = after(one, other);

	return rest && !*rest;
}

static long now_ms(void)
{
	struct timespec time;

	system_call(CLOCK_GETTIME, CLOCK_MONOTONIC, (long)&time, 0, 0, 0);
	return time.seconds * 1000 + time.nanoseconds / 1000000;
}

static void pause_ms(long milliseconds)
{
	struct timespec time = { milliseconds / 1000, milliseconds % 1000 * 1000000 };

	system_call(NANOSLEEP, (long)&time, 0, 0, 0, 0);
}

static __attribute__((noreturn)) void leave(int code)
{
	for (;;)
		system_call(EXIT_GROUP, code, 0, 0, 0, 0);
}

/* Whether a file is readable or writable before `deadline`. */
static int ready(int file, short what, long deadline)
{
	struct pollfd poll = { file, what, 0 };
	struct timespec time;
	long left, result;

	do {
		left = deadline - now_ms();
		if (left <= 0)
			return 0;
		time.seconds = left / 1000;
		time.nanoseconds = left % 1000 * 1000000;
		result = system_call(PPOLL, (long)&poll, 1, (long)&time, 0, 8);
	} while (result == -EINTR);
	return result > 0;
}

static int write_all(int file, const char *from, size length, long deadline)
{
	long written;

	while (length) {
		written = system_call(WRITE, file, (long)from, (long)length, 0, 0);
		if (written == -EINTR)
			continue;
		if (written == -EAGAIN && ready(file, POLLOUT, deadline))
			continue;
		if (written <= 0)
			return 0;
		from += written;
		length -= (size)written;
	}
	return 1;
}

/* Bytes until the end, or -1: an error, no room or no time. */
static long read_all(int file, char *to, size room, long deadline)
{
	size held = 0;
	long got;

	for (;;) {
		if (!ready(file, POLLIN, deadline))
			return -1;
		got = system_call(READ, file, (long)(to + held), (long)(room - held), 0, 0);
		if (got == -EINTR || got == -EAGAIN)
			continue;
		if (got == 0 && held < room)
			return (long)held;
		if (got <= 0)
			return -1;
		held += (size)got;
	}
}

struct text {
	char *bytes;
	size length, room;
};

static void append(struct text *text, const char *bytes, size length)
{
	if (length > text->room - text->length)
		leave(1);
	memcpy(text->bytes + text->length, bytes, length);
	text->length += length;
}

static void say(struct text *text, const char *words)
{
	append(text, words, length_of(words));
}

static void say_number(struct text *text, size number)
{
	char digits[20];
	size first = sizeof(digits);

	do {
		digits[--first] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	append(text, digits + first, sizeof(digits) - first);
}

#define LARGEST 1048576
static char input[LARGEST + 1], request_bytes[LARGEST + 16384], answer[LARGEST + 1], output_bytes[4096];
static const char *const HANDED[] = { "CNI_COMMAND=", "CNI_CONTAINERID=", "CNI_NETNS=", "CNI_IFNAME=", "CNI_ARGS=",
				      "CNI_PATH=" };
#define HANDED_COUNT (sizeof(HANDED) / sizeof(HANDED[0]))

/* The version that the input is written in, as far as it can be found without reading JSON. */
static void say_version(struct text *text)
{
	const char *at, *rest;
	size length;

	for (at = input; *at; at++) {
		rest = after(at, "\"cniVersion\"");
		if (!rest)
			continue;
		while (*rest == ' ' || *rest == '\t' || *rest == '\n' || *rest == '\r' || *rest == ':')
			rest++;
		if (*rest++ != '"')
			continue;
		for (length = 0; (rest[length] >= '0' && rest[length] <= '9') || rest[length] == '.';)
			length++;
		if (length && length < 16 && rest[length] == '"') {
			append(text, rest, length);
			return;
		}
	}
	say(text, "1.0.0");
}

static __attribute__((noreturn)) void fail(int code, const char *message, const char *details)
{
	struct text text = { output_bytes, 0, sizeof(output_bytes) };

	say(&text, "{\"cniVersion\":\"");
	say_version(&text);
	say(&text, "\",\"code\":");
	say_number(&text, (size)code);
	say(&text, ",\"msg\":\"egresslab: ");
	say(&text, message);
	say(&text, "\",\"details\":\"");
	say(&text, details);
	say(&text, "\"}\n");
	write_all(1, text.bytes, text.length, now_ms() + ADD_MS);
	leave(1);
}

/* A body that is there as a whole: its beginning and length. */
static const char *body_of(const char *reply, long length, size *body_length)
{
	const char *end = reply + length, *at, *rest, *body = 0;
	size promised = 0;
	int said = 0;

	for (at = reply; at < end && !body; at++) {
		rest = after(at, "\r\nContent-Length: ");
		if (rest) {
			for (promised = 0; *rest >= '0' && *rest <= '9' && promised < LARGEST; rest++)
				promised = promised * 10 + (size)(*rest - '0');
			said = 1;
		}
		body = after(at, "\r\n\r\n");
	}
	if (!body || !said || promised != (size)(end - body))
		return 0;
	*body_length = promised;
	return body;
}

/* The agent's HTTP status, its words in `answer`; 0: nobody answered in full. */
static int ask(const struct text *request, long deadline, const char **body, size *length)
{
	struct address address = { AF_UNIX, SOCKET };
	const char *status;
	long got = -1;
	int file;

	file = (int)system_call(OPEN_SOCKET, AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, 0, 0);
	if (file < 0)
		return 0;
	if (!system_call(CONNECT, file, (long)&address, sizeof(address), 0, 0) &&
	    write_all(file, request->bytes, request->length, deadline))
		got = read_all(file, answer, LARGEST, deadline);
	system_call(CLOSE, file, 0, 0, 0, 0);
	if (got < 0)
		return 0;
	answer[got] = 0;
	status = after(answer, "HTTP/1.0 ");
	if (!status)
		status = after(answer, "HTTP/1.1 ");
	*body = body_of(answer, got, length);
	if (!status || !*body)
		return 0;
	return (status[0] - '0') * 100 + (status[1] - '0') * 10 + (status[2] - '0');
}

/* The environment, each variable ended by a zero byte and all by another, then the input. */
static void compose(struct text *request, char **environment, size input_length)
{
	size length = input_length + 1, index;
	char **variable;

	for (index = 0; index < HANDED_COUNT; index++)
		for (variable = environment; *variable; variable++)
			if (after(*variable, HANDED[index]))
				length += length_of(*variable) + 1;
	say(request, "POST /cni/chain HTTP/1.0\r\nHost: agent\r\nContent-Type: application/octet-stream\r\nContent-Length: ");
	say_number(request, length);
	say(request, "\r\n\r\n");
	for (index = 0; index < HANDED_COUNT; index++)
		for (variable = environment; *variable; variable++)
			if (after(*variable, HANDED[index]))
				append(request, *variable, length_of(*variable) + 1);
	append(request, "", 1);
	append(request, input, input_length);
}

static __attribute__((noreturn)) void add(const struct text *request, long start)
{
	const char *body;
	size length;
	int status;

	for (;;) {
		status = ask(request, start + ADD_MS, &body, &length);
		if (status || now_ms() - start >= PATIENCE_MS)
			break;
		pause_ms(PAUSE_MS);
	}
	if (status == 200 || status == 503) {
		if (!write_all(1, body, length, start + ADD_MS))
			leave(1);
		leave(status != 200);
	}
	if (status)
		fail(TRY_AGAIN_LATER, "the agent of this node answered with an error of its own",
		     "see the log of the pod of DaemonSet kube-system/egresslab-agent on this node");
	fail(TRY_AGAIN_LATER, "the agent of this node does not answer, so it is not known which policies select the pod",
	     "nobody listens on " SOCKET "; see the pod of DaemonSet kube-system/egresslab-agent on this node. Where "
	     "there will be none, take the plug-in egresslab out of the node's CNI configuration");
}

__attribute__((noreturn, used)) void begin(long *stack)
{
	char **environment = (char **)(stack + 1 + *stack + 1), **variable;
	struct text request = { request_bytes, 0, sizeof(request_bytes) };
	const char *command = "", *value, *body;
	unsigned long broken_pipe = 1UL << 12;	/* SIGPIPE: an agent that dies while it is being asked */
	long start = now_ms(), got;
	size length;

	system_call(RT_SIGPROCMASK, 0, (long)&broken_pipe, 0, sizeof(broken_pipe), 0);
	for (variable = environment; *variable; variable++)
		if ((value = after(*variable, "CNI_COMMAND=")))
			command = value;
	if (equal(command, "VERSION")) {
		static const char versions[] =
			"{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\","
			"\"1.0.0\",\"1.1.0\"]}\n";

		leave(!write_all(1, versions, sizeof(versions) - 1, start + ADD_MS));
	}
	if (equal(command, "CHECK") || equal(command, "GC") || equal(command, "STATUS"))
		leave(0);
	if (!equal(command, "ADD") && !equal(command, "DEL"))
		fail(INVALID_ENVIRONMENT, "CNI_COMMAND is none that is known", "a CNI runtime sets it");
	got = read_all(0, input, LARGEST, start + (equal(command, "ADD") ? ADD_MS : DEL_MS));
	input[got < 0 ? 0 : got] = 0;
	if (equal(command, "DEL")) {
		if (got >= 0) {
			compose(&request, environment, (size)got);
			ask(&request, start + DEL_MS, &body, &length);
		}
		leave(0);
	}
	if (got < 0)
		fail(IO_FAILURE, "the network configuration could not be read", "it ends within 1 MiB and 30 seconds");
	compose(&request, environment, (size)got);
	add(&request, start);
}
