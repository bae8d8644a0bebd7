/* An example driver: it counts what is written to it. Its state is a few numbers and one for each handle, so that a call
 * that was lost, made twice or made by the wrong version shows.
 *
 *   write   counts a call and its bytes; answers the length
 *   read    a line of text with the version and the counters
 *   ioctl   COUNTER_VERSION: the version's text; COUNTER_READ: struct counters; COUNTER_ADD: counts the argument as write
 *           does, and answers struct added
 *   poll    always ready
 *   own     0 "reset": all counters to 0; 1 "peek": struct counters
 *
 * Tests build variants of it with -D:
 *   VERSION="\"2\""    the version
 *   LAYOUT=2           other state: a field more; downgrade_state writes layout 1
 *   ADDED              an own operation more, 2 "added": answers the version's text
 *   CRASH_AT=n         the n-th counted call since the state came fails so: a null pointer is written,
 *   LOOP_AT=n          or it never returns;
 *   ERROR_AT=n         from the n-th on all are answered with -EIO
 *   CRASH_ON="\"x\"", LOOP_ON, ERROR_ON   the same for calls whose data begins so, whatever their number
 *   SLOW_US=n          each counted call is busy for so many microseconds
 *   LEAK=n             each counted call loses so many bytes of memory
 *   LOSE_STATE         import_state forgets the handles' numbers
 *   SELF_TEST_FAILS    self_test answers -EIO
 *   IMPORT_FAILS       import_state answers -EPROTO
 *   INIT_CRASHES       a null pointer is written when the object is loaded */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vestal_driver.h"

#ifndef VERSION
#define VERSION "1"
#endif
#ifndef LAYOUT
#define LAYOUT 1
#endif

#define COUNTER_VERSION 1
#define COUNTER_READ 2
#define COUNTER_ADD 3

struct counters {
	uint64_t calls, bytes, checksum, own; /* own: calls by this handle */
};

struct added {
	uint64_t version;  /* VERSION as a number */
	uint64_t checksum; /* of the argument alone */
};

/* Fields of the exported state. */
enum { CALLS = 1, BYTES = 2, CHECKSUM = 3, HANDLES = 4, LONGEST = 5 };

#define SLOTS 1024

static struct {
	uint64_t calls, bytes, checksum;
	uint64_t longest; /* the longest write; since layout 2 */
	struct {
		uint64_t handle, calls;
	} slots[SLOTS]; /* handle 0: free */
} state;

/* Counted calls since the state came. Not exported: it belongs to this version alone. */
static uint64_t since;

/* Kept as a function of its own, so that it has an entry that can be replaced. */
#define WHOLE __attribute__((noinline, noclone))

#ifdef INIT_CRASHES
__attribute__((constructor)) static void init(void) {
	volatile int *nowhere = 0;
	/* A compiler that sees where it leads leaves the whole constructor out. */
	__asm__ volatile("" : "+r"(nowhere));
	*nowhere = 0;
}
#endif

static void add(uint64_t *number, uint64_t more) {
	__atomic_fetch_add(number, more, __ATOMIC_RELAXED);
}

static uint64_t *slot_of(uint64_t handle) {
	for (int at = 0; at < SLOTS; at++)
		if (__atomic_load_n(&state.slots[at].handle, __ATOMIC_ACQUIRE) == handle)
			return &state.slots[at].calls;
	return NULL;
}

WHOLE static uint64_t checksum_of(const unsigned char *data, size_t length) {
	uint64_t sum = 0xcbf29ce484222325u;
	for (size_t at = 0; at < length; at++)
		sum = (sum ^ data[at]) * 0x100000001b3u;
	return sum;
}

static int begins(const void *data, size_t length, const char *word) {
	return length >= strlen(word) && memcmp(data, word, strlen(word)) == 0;
}

/* What a variant has wrong. 0, or the answer of the call. */
static long trouble(uint64_t number, const void *data, size_t length) {
	(void)number, (void)data, (void)length, (void)begins;
#ifdef CRASH_AT
	if (number == CRASH_AT)
		*(volatile int *)0 = 0;
#endif
#ifdef CRASH_ON
	if (begins(data, length, CRASH_ON))
		*(volatile int *)0 = 0;
#endif
#ifdef LOOP_AT
	while (number == LOOP_AT)
		__asm__ volatile("");
#endif
#ifdef LOOP_ON
	while (begins(data, length, LOOP_ON))
		__asm__ volatile("");
#endif
#ifdef SLOW_US
	struct timespec begin, now;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do
		clock_gettime(CLOCK_MONOTONIC, &now);
	while ((now.tv_sec - begin.tv_sec) * 1000000L + (now.tv_nsec - begin.tv_nsec) / 1000 < SLOW_US);
#endif
#ifdef LEAK
	void *lost = malloc(LEAK);
	if (lost)
		memset(lost, 1, LEAK);
	__asm__ volatile("" : : "r"(lost) : "memory");
#endif
#ifdef ERROR_AT
	if (number >= ERROR_AT)
		return -EIO;
#endif
#ifdef ERROR_ON
	if (begins(data, length, ERROR_ON))
		return -EIO;
#endif
	return 0;
}

WHOLE static long count(uint64_t handle, const void *data, size_t length, uint64_t *checksum) {
	long wrong = trouble(__atomic_add_fetch(&since, 1, __ATOMIC_RELAXED), data, length);
	if (wrong)
		return wrong;
	uint64_t *own = slot_of(handle);
	if (!own)
		return -EBADF;
	*checksum = checksum_of(data, length);
	add(own, 1);
	add(&state.calls, 1);
	add(&state.bytes, length);
	add(&state.checksum, *checksum);
	uint64_t longest = __atomic_load_n(&state.longest, __ATOMIC_RELAXED);
	while (length > longest
	       && !__atomic_compare_exchange_n(&state.longest, &longest, length, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
	return 0;
}

static long counter_open(uint64_t handle, uint32_t flags) {
	if (flags & VESTAL_REOPEN && slot_of(handle))
		return 0;
	for (int at = 0; at < SLOTS; at++) {
		uint64_t free = 0;
		if (__atomic_compare_exchange_n(&state.slots[at].handle, &free, handle, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			return 0;
	}
	return -EMFILE;
}

static long counter_close(uint64_t handle) {
	for (int at = 0; at < SLOTS; at++)
		if (__atomic_load_n(&state.slots[at].handle, __ATOMIC_ACQUIRE) == handle) {
			state.slots[at].calls = 0;
			__atomic_store_n(&state.slots[at].handle, 0, __ATOMIC_RELEASE);
		}
	return 0;
}

static struct counters counters(uint64_t handle) {
	uint64_t *own = slot_of(handle);
	return (struct counters){
		.calls = __atomic_load_n(&state.calls, __ATOMIC_RELAXED),
		.bytes = __atomic_load_n(&state.bytes, __ATOMIC_RELAXED),
		.checksum = __atomic_load_n(&state.checksum, __ATOMIC_RELAXED),
		.own = own ? __atomic_load_n(own, __ATOMIC_RELAXED) : 0,
	};
}

static long answer(void *arg, size_t out_cap, const void *data, size_t length) {
	if (length > out_cap)
		return -EMSGSIZE;
	memcpy(arg, data, length);
	return (long)length;
}

static long counter_read(uint64_t handle, void *buffer, size_t length) {
	struct counters now = counters(handle);
	char line[128];
	int written = snprintf(line, sizeof line, "version %s calls %llu bytes %llu checksum %016llx own %llu\n", VERSION,
			       (unsigned long long)now.calls, (unsigned long long)now.bytes,
			       (unsigned long long)now.checksum, (unsigned long long)now.own);
	size_t some = (size_t)written < length ? (size_t)written : length;
	memcpy(buffer, line, some);
	return (long)some;
}

static long counter_write(uint64_t handle, const void *buffer, size_t length) {
	uint64_t checksum;
	long wrong = count(handle, buffer, length, &checksum);
	return wrong ? wrong : (long)length;
}

static long counter_ioctl(uint64_t handle, uint32_t command, void *arg, size_t in_len, size_t out_cap) {
	struct counters now;
	struct added added = {.version = strtoull(VERSION, NULL, 10)};
	long wrong;
	switch (command) {
	case COUNTER_VERSION:
		return answer(arg, out_cap, VERSION, strlen(VERSION));
	case COUNTER_READ:
		now = counters(handle);
		return answer(arg, out_cap, &now, sizeof now);
	case COUNTER_ADD:
		wrong = count(handle, arg, in_len, &added.checksum);
		return wrong ? wrong : answer(arg, out_cap, &added, sizeof added);
	default:
		return -ENOTTY;
	}
}

static long counter_poll(uint64_t handle, uint32_t events) {
	(void)handle;
	return (long)(events & (VESTAL_IN | VESTAL_OUT));
}

static long counter_reset(uint64_t handle, void *arg, size_t in_len, size_t out_cap) {
	(void)handle, (void)arg, (void)in_len, (void)out_cap;
	__atomic_store_n(&state.calls, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&state.bytes, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&state.checksum, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&state.longest, 0, __ATOMIC_RELAXED);
	for (int at = 0; at < SLOTS; at++)
		__atomic_store_n(&state.slots[at].calls, 0, __ATOMIC_RELAXED);
	return 0;
}

static long counter_peek(uint64_t handle, void *arg, size_t in_len, size_t out_cap) {
	(void)in_len;
	struct counters now = counters(handle);
	return answer(arg, out_cap, &now, sizeof now);
}

#ifdef ADDED
static long counter_added(uint64_t handle, void *arg, size_t in_len, size_t out_cap) {
	(void)handle, (void)in_len;
	return answer(arg, out_cap, VERSION, strlen(VERSION));
}
#endif

/* Writes as much as fits, and counts all. */
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

static long export_as(uint32_t layout, void *buffer, size_t cap) {
	struct writer to = {buffer, cap, 0};
	size_t handles = 0;
	for (int at = 0; at < SLOTS; at++)
		handles += state.slots[at].handle != 0;
	put(&to, layout, 4);
	put(&to, layout >= 2 ? 5 : 4, 4);
	put_number(&to, CALLS, state.calls);
	put_number(&to, BYTES, state.bytes);
	put_number(&to, CHECKSUM, state.checksum);
	put_field(&to, HANDLES, handles * 16);
	for (int at = 0; at < SLOTS; at++)
		if (state.slots[at].handle) {
			put(&to, state.slots[at].handle, 8);
			put(&to, state.slots[at].calls, 8);
		}
	if (layout >= 2)
		put_number(&to, LONGEST, state.longest);
	return (long)to.length;
}

static long export_state(void *buffer, size_t cap) {
	return export_as(LAYOUT, buffer, cap);
}

static long downgrade_state(uint32_t layout, void *buffer, size_t cap) {
	if (layout < 1 || layout > LAYOUT)
		return -EPROTO;
	return export_as(layout, buffer, cap);
}

static uint64_t number_at(const unsigned char *bytes, size_t octets) {
	uint64_t number = 0;
	for (size_t at = octets; at-- > 0;)
		number = number << 8 | bytes[at];
	return number;
}

static long import_field(uint16_t id, const unsigned char *bytes, size_t length) {
	uint64_t *number;
	switch (id) {
	case CALLS:
		number = &state.calls;
		break;
	case BYTES:
		number = &state.bytes;
		break;
	case CHECKSUM:
		number = &state.checksum;
		break;
	case LONGEST:
		number = &state.longest;
		break;
	case HANDLES:
		if (length % 16 || length / 16 > SLOTS)
			return -EPROTO;
		for (size_t at = 0; at < length / 16; at++) {
			state.slots[at].handle = number_at(bytes + at * 16, 8);
#ifndef LOSE_STATE
			state.slots[at].calls = number_at(bytes + at * 16 + 8, 8);
#endif
		}
		return 0;
	default:
		return -EPROTO;
	}
	if (length != 8)
		return -EPROTO;
	*number = number_at(bytes, 8);
	return 0;
}

static long import_state(const struct vestal_host *host, const void *from, size_t length) {
	const unsigned char *bytes = from;
	memset(&state, 0, sizeof state);
	since = 0;
#ifdef IMPORT_FAILS
	return -EPROTO;
#endif
	if (length > 0) {
		if (length < 8 || number_at(bytes, 4) < 1 || number_at(bytes, 4) > LAYOUT)
			return -EPROTO;
		for (size_t at = 8; at < length;) {
			if (length - at < 8 || number_at(bytes + at + 4, 4) > length - at - 8)
				return -EPROTO;
			size_t octets = number_at(bytes + at + 4, 4);
			long wrong = import_field((uint16_t)number_at(bytes + at, 2), bytes + at + 8, octets);
			if (wrong)
				return wrong;
			at += 8 + octets;
		}
	}
	host->log(7, "counter " VERSION " has its state");
	return 0;
}

static long self_test(void) {
#ifdef SELF_TEST_FAILS
	return -EIO;
#endif
	return checksum_of((const unsigned char *)"", 0) == 0xcbf29ce484222325u ? 0 : -EIO;
}

static const struct vestal_ops ops = {
	.open = counter_open,
	.close = counter_close,
	.read = counter_read,
	.write = counter_write,
	.ioctl = counter_ioctl,
	.poll = counter_poll,
	.own = {
		counter_reset,
		counter_peek,
#ifdef ADDED
		counter_added,
#endif
	},
};

static const char *const own_names[] = {
	"reset",
	"peek",
#ifdef ADDED
	"added",
#endif
};

static const struct vestal_field fields[] = {
	{CALLS, VESTAL_UNSIGNED, 0, "calls"},
	{BYTES, VESTAL_UNSIGNED, 0, "bytes"},
	{CHECKSUM, VESTAL_UNSIGNED, 0, "checksum"},
	{HANDLES, VESTAL_BYTES, 0, "handles"},
#if LAYOUT >= 2
	{LONGEST, VESTAL_UNSIGNED, 0, "longest"},
#endif
};

#define LENGTH(array) (sizeof(array) / sizeof *(array))

const struct vestal_driver vestal_driver_v1 = {
	.size = sizeof(struct vestal_driver),
	.abi_major = VESTAL_ABI_MAJOR,
	.abi_minor = VESTAL_ABI_MINOR,
	.state_layout = LAYOUT,
	.name = "counter",
	.version = VERSION,
	.ops = &ops,
	.ops_len = 7 + LENGTH(own_names),
	.export_state = export_state,
	.import_state = import_state,
	.downgrade_state = downgrade_state,
	.self_test = self_test,
	.fields = fields,
	.fields_len = LENGTH(fields),
	.own_names_len = LENGTH(own_names),
	.own_names = own_names,
};
