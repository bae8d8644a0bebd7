/* An example driver that waits: what is written to it is read from it, in the same order, by whichever handle reads first.
 *
 *   write   waits for room; answers how much it took
 *   read    waits for bytes; answers those that are there, at most as many as fit
 *   poll    VESTAL_IN where bytes are there, VESTAL_OUT where there is room
 *   ioctl   PIPE_WAITING: how many bytes wait, as u64; PIPE_NONBLOCK: a byte, 1: read and write of this handle answer -EAGAIN
 *           where they would wait
 *   own     0 "bell": waits for the time in milliseconds (u32) and answers 0; -EINTR where it was interrupted
 *
 * The bytes are in a real pipe, so that host->wait and host->watch have a descriptor to look at. An upgrade in the same process
 * carries the descriptors; a host that was started anew carries the bytes.
 *
 * Variants by -D: VERSION="\"2\"". */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vestal_driver.h"

#ifndef VERSION
#define VERSION "1"
#endif

#define PIPE_WAITING 1
#define PIPE_NONBLOCK 2

/* Fields of the exported state. */
enum { OWNER = 1, INODE = 2, READ_END = 3, WRITE_END = 4, WAITING = 5, NONBLOCK = 6 };

#define SLOTS 1024

static const struct vestal_host *host;
static int ends[2] = {-1, -1};
/* Handles that do not wait. */
static uint64_t nonblock[SLOTS];

static int waits(uint64_t handle) {
	for (int at = 0; at < SLOTS; at++)
		if (__atomic_load_n(&nonblock[at], __ATOMIC_ACQUIRE) == handle)
			return 0;
	return 1;
}

/* Replaces one value in the table by another; 0 where it was not there. */
static int replace(uint64_t from, uint64_t to) {
	for (int at = 0; at < SLOTS; at++) {
		uint64_t expected = from;
		if (__atomic_compare_exchange_n(&nonblock[at], &expected, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return 1;
	}
	return 0;
}

static long pipe_close(uint64_t handle) {
	replace(handle, 0);
	return 0;
}

static long waiting(void) {
	int count = 0;
	return ioctl(ends[0], FIONREAD, &count) < 0 ? -errno : count;
}

static long pipe_read(uint64_t handle, void *buffer, size_t length) {
	for (;;) {
		ssize_t count = read(ends[0], buffer, length);
		if (count >= 0) {
			host->notify(0);
			return count;
		}
		if (errno != EAGAIN || !waits(handle))
			return -errno;
		/* Where the code is replaced here, this returns VESTAL_RESTART, and so do we, at once. */
		long woken = host->wait(ends[0], VESTAL_IN, -1);
		if (woken < 0)
			return woken;
	}
}

static long pipe_write(uint64_t handle, const void *buffer, size_t length) {
	for (;;) {
		ssize_t count = write(ends[1], buffer, length);
		if (count >= 0) {
			host->notify(0);
			return count;
		}
		if (errno != EAGAIN || !waits(handle))
			return -errno;
		long woken = host->wait(ends[1], VESTAL_OUT, -1);
		if (woken < 0)
			return woken;
	}
}

static long pipe_poll(uint64_t handle, uint32_t events) {
	uint32_t there = 0;
	long wrong = 0;
	if (waiting() > 0)
		there |= VESTAL_IN;
	else if (events & VESTAL_IN)
		wrong = host->watch(handle, ends[0], VESTAL_IN);
	if (waiting() < fcntl(ends[1], F_GETPIPE_SZ))
		there |= VESTAL_OUT;
	else if (events & VESTAL_OUT && !wrong)
		wrong = host->watch(handle, ends[1], VESTAL_OUT);
	return wrong < 0 && !(there & events) ? wrong : (long)(there & events);
}

static long pipe_ioctl(uint64_t handle, uint32_t command, void *arg, size_t in_len, size_t out_cap) {
	long count;
	uint64_t answer;
	switch (command) {
	case PIPE_WAITING:
		count = waiting();
		if (count < 0)
			return count;
		if (out_cap < sizeof answer)
			return -EMSGSIZE;
		answer = (uint64_t)count;
		memcpy(arg, &answer, sizeof answer);
		return sizeof answer;
	case PIPE_NONBLOCK:
		if (in_len != 1)
			return -EINVAL;
		replace(handle, 0);
		if (*(unsigned char *)arg && !replace(0, handle))
			return -ENOMEM;
		return 0;
	default:
		return -ENOTTY;
	}
}

static long pipe_bell(uint64_t handle, void *arg, size_t in_len, size_t out_cap) {
	uint32_t milliseconds;
	(void)handle, (void)out_cap;
	if (in_len != sizeof milliseconds)
		return -EINVAL;
	memcpy(&milliseconds, arg, sizeof milliseconds);
	return host->wait(-1, 0, (int)(milliseconds & 0x7fffffff));
}

struct writer {
	unsigned char *buffer;
	size_t cap, length;
};

static void put(struct writer *to, uint64_t number, size_t octets) {
	for (size_t at = 0; at < octets; at++, to->length++)
		if (to->length < to->cap)
			to->buffer[to->length] = (unsigned char)(number >> 8 * at);
}

static void put_field(struct writer *to, uint16_t id, size_t length) {
	put(to, id, 2);
	put(to, 0, 2);
	put(to, length, 4);
}

static void put_number(struct writer *to, uint16_t id, uint64_t number) {
	put_field(to, id, 8);
	put(to, number, 8);
}

/* Which pipe a descriptor is, 0 where it is none: a number alone may mean something else in another process. */
static uint64_t inode(int fd) {
	struct stat status;
	return fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode) ? (uint64_t)status.st_ino : 0;
}

/* The bytes that wait are looked at without taking them: tee() into another pipe, which is read. */
static long peek(unsigned char *to, size_t length) {
	int copy[2];
	size_t have = 0;
	if (pipe2(copy, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	fcntl(copy[1], F_SETPIPE_SZ, fcntl(ends[0], F_GETPIPE_SZ));
	long count = tee(ends[0], copy[1], length, SPLICE_F_NONBLOCK);
	while (count > 0 && have < (size_t)count) {
		ssize_t some = read(copy[0], to + have, (size_t)count - have);
		if (some <= 0)
			break;
		have += (size_t)some;
	}
	close(copy[0]);
	close(copy[1]);
	return (long)have;
}

static long export_state(void *buffer, size_t cap) {
	struct writer to = {buffer, cap, 0};
	long bytes = waiting();
	size_t handles = 0;
	if (bytes < 0)
		return bytes;
	for (int at = 0; at < SLOTS; at++)
		handles += nonblock[at] != 0;
	put(&to, 1, 4);
	put(&to, 6, 4);
	put_number(&to, OWNER, (uint64_t)getpid());
	put_number(&to, INODE, inode(ends[0]));
	put_number(&to, READ_END, (uint64_t)ends[0]);
	put_number(&to, WRITE_END, (uint64_t)ends[1]);
	put_field(&to, WAITING, (size_t)bytes);
	if (to.length + (size_t)bytes <= cap && bytes > 0 && peek(to.buffer + to.length, (size_t)bytes) != bytes)
		return -EIO;
	to.length += (size_t)bytes;
	put_field(&to, NONBLOCK, handles * 8);
	for (int at = 0; at < SLOTS; at++)
		if (nonblock[at])
			put(&to, nonblock[at], 8);
	return (long)to.length;
}

static uint64_t number_at(const unsigned char *bytes, size_t octets) {
	uint64_t number = 0;
	for (size_t at = octets; at-- > 0;)
		number = number << 8 | bytes[at];
	return number;
}

/* A new pipe with the bytes that waited in the old one. */
static long begin(const unsigned char *bytes, size_t length) {
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	if (length > (size_t)fcntl(ends[1], F_GETPIPE_SZ) && fcntl(ends[1], F_SETPIPE_SZ, (int)length) < 0)
		return -errno;
	return length == 0 || write(ends[1], bytes, length) == (ssize_t)length ? 0 : -EIO;
}

static long import_state(const struct vestal_host *of, const void *from, size_t length) {
	const unsigned char *bytes = from, *waited = NULL;
	uint64_t numbers[5] = {0};
	size_t waited_len = 0;
	host = of;
	memset(nonblock, 0, sizeof nonblock);
	if (length == 0)
		return begin(NULL, 0);
	if (length < 8 || number_at(bytes, 4) != 1)
		return -EPROTO;
	for (size_t at = 8; at < length;) {
		if (length - at < 8 || number_at(bytes + at + 4, 4) > length - at - 8)
			return -EPROTO;
		size_t octets = number_at(bytes + at + 4, 4);
		uint64_t id = number_at(bytes + at, 2);
		const unsigned char *field = bytes + at + 8;
		at += 8 + octets;
		if (id >= OWNER && id <= WRITE_END && octets == 8)
			numbers[id] = number_at(field, 8);
		else if (id == WAITING)
			waited = field, waited_len = octets;
		else if (id == NONBLOCK && octets % 8 == 0 && octets / 8 <= SLOTS)
			for (size_t slot = 0; slot < octets / 8; slot++)
				nonblock[slot] = number_at(field + slot * 8, 8);
		else
			return -EPROTO;
	}
	int read_end = (int)numbers[READ_END], write_end = (int)numbers[WRITE_END];
	if (numbers[OWNER] == (uint64_t)getpid() && numbers[INODE] != 0 && inode(read_end) == numbers[INODE]
	    && inode(write_end) == numbers[INODE]) {
		/* The version before in the same process: the pipe itself goes on. */
		ends[0] = read_end;
		ends[1] = write_end;
		return 0;
	}
	return begin(waited, waited_len);
}

/* There is one layout so far; what is needed is what is exported. */
static long downgrade_state(uint32_t layout, void *buffer, size_t cap) {
	return layout == 1 ? export_state(buffer, cap) : -EPROTO;
}

static long self_test(void) {
	return waiting() < 0 ? -EIO : 0;
}

static const struct vestal_ops ops = {
	.close = pipe_close,
	.read = pipe_read,
	.write = pipe_write,
	.ioctl = pipe_ioctl,
	.poll = pipe_poll,
	.own = {pipe_bell},
};

static const char *const own_names[] = {"bell"};

static const struct vestal_field fields[] = {
	{OWNER, VESTAL_UNSIGNED, 0, "process"},	    {INODE, VESTAL_UNSIGNED, 0, "pipe"},
	{READ_END, VESTAL_UNSIGNED, 0, "read end"}, {WRITE_END, VESTAL_UNSIGNED, 0, "write end"},
	{WAITING, VESTAL_BYTES, 0, "waiting"},	    {NONBLOCK, VESTAL_BYTES, 0, "nonblocking handles"},
};

const struct vestal_driver vestal_driver_v1 = {
	.size = sizeof(struct vestal_driver),
	.abi_major = VESTAL_ABI_MAJOR,
	.abi_minor = VESTAL_ABI_MINOR,
	.state_layout = 1,
	.name = "pipe",
	.version = VERSION,
	.ops = &ops,
	.ops_len = 8,
	.export_state = export_state,
	.import_state = import_state,
	.downgrade_state = downgrade_state,
	.self_test = self_test,
	.fields = fields,
	.fields_len = sizeof fields / sizeof *fields,
	.own_names_len = 1,
	.own_names = own_names,
};
