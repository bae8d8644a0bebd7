/* What a driver for vestal-driver includes. A driver is a shared object that exports one symbol, vestal_driver_v1.
 *
 *   cc -shared -fPIC -O2 -fpatchable-function-entry=16 -Wl,-z,now,-z,relro,-z,noexecstack -o counter.so counter.c
 *
 * All sixteen nops of -fpatchable-function-entry=16 stand at the entry, after the endbr64 or bti c where there is one: room for
 * a jump to another version or to a probe, on x86-64 and aarch64. (=16,14 would leave two of them there, too few.) Functions
 * without are replaced with the whole table only. Whoever wants single functions replaced or probed by name keeps the symbol
 * table (no strip) and marks what must stay a function of its own __attribute__((noinline, noclone)).
 *
 * Rules
 * - All operations return long: 0 or more, or -errno.
 * - Calls come from several threads at the same time, those of one handle one after the other. None comes while state is
 *   exported or imported.
 * - A driver keeps its state in its own variables, and gives all of it away in export_state: the next version begins with that.
 * - It must not sleep but in host->wait(). When wait() answers VESTAL_RESTART, the code was replaced meanwhile: return
 *   VESTAL_RESTART at once and touch nothing; the host makes the call again in the new version.
 * - It starts no threads, installs no signal handlers and calls neither exit nor fork.
 * - Pointers to its functions or data that it gave away (host->watch has none) must not outlive it.
 * The same in Rust: the crate driver-abi. Whoever changes one changes the other; a test compares sizes and offsets. */
#ifndef VESTAL_DRIVER_H
#define VESTAL_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VESTAL_ABI_MAJOR 1
/* Grows when members are added at the end of a structure; `size` says which are there. */
#define VESTAL_ABI_MINOR 0

/* A call that has to be made again; never seen by who called. */
#define VESTAL_RESTART (-512L)

/* Flag of open(): the host was started again and gives the driver a handle back that it may know already. */
#define VESTAL_REOPEN 0x80000000u

/* Events of poll() and watch(), as in <poll.h>. */
#define VESTAL_IN 0x01u
#define VESTAL_OUT 0x04u
#define VESTAL_ERR 0x08u
#define VESTAL_HUP 0x10u

/* What the host does for a driver. Valid for as long as the driver is loaded. */
struct vestal_host {
	uint32_t size; /* of this structure */
	uint32_t abi_major, abi_minor, zero;
	/* Waits for one of events on fd, or only for the time where fd is -1. Answers the events that came, 0 after timeout_ms
	 * (negative: never), -EINTR after interrupt(), VESTAL_RESTART, or another -errno. Only from within an operation. */
	long (*wait)(int fd, uint32_t events, int timeout_ms);
	/* Once fd has one of events, who polls this handle is answered anew (poll() is called again). One-shot. */
	long (*watch)(uint64_t handle, int fd, uint32_t events);
	/* Who polls this handle (0: any handle) is answered anew. */
	void (*notify)(uint64_t handle);
	/* A line of the log: level 3 error, 4 warning, 6 info, 7 debug. */
	void (*log)(int level, const char *text);
};

/* An operation of the driver's own. arg holds in_len bytes of argument and has room for out_cap bytes of answer;
 * the return value is how many bytes the answer has. */
typedef long (*vestal_own)(uint64_t handle, void *arg, size_t in_len, size_t out_cap);

/* The table of operations. NULL is answered with -ENOSYS, of open, close and interrupt with 0. */
struct vestal_ops {
	long (*open)(uint64_t handle, uint32_t flags);
	long (*close)(uint64_t handle);
	long (*read)(uint64_t handle, void *buffer, size_t length);
	long (*write)(uint64_t handle, const void *buffer, size_t length);
	long (*ioctl)(uint64_t handle, uint32_t command, void *arg, size_t in_len, size_t out_cap);
	/* The events that are there now. Does not wait. */
	long (*poll)(uint64_t handle, uint32_t events);
	/* Makes operations of this handle that wait return soon. Called while they run. */
	long (*interrupt)(uint64_t handle);
	vestal_own own[]; /* as many as ops_len says beyond the seven above */
};

/* What a field of the exported state is, so that a person can read it. */
enum vestal_kind {
	VESTAL_BYTES = 0,
	VESTAL_UNSIGNED = 1, /* 1, 2, 4 or 8 bytes, little-endian */
	VESTAL_SIGNED = 2,
	VESTAL_TEXT = 3, /* UTF-8 without a NUL */
};

struct vestal_field {
	uint16_t id;
	uint16_t kind; /* enum vestal_kind */
	uint32_t zero;
	const char *name;
};

/* State travels as: u32 layout, u32 count, then count times { u16 id, u16 zero, u32 length, length bytes }, all of it
 * little-endian, ids rising. At most 1 MiB. */
struct vestal_driver {
	uint32_t size; /* sizeof(struct vestal_driver) */
	uint32_t abi_major, abi_minor;
	uint32_t state_layout; /* names the meaning of the exported state; another one for each change of it */
	const char *name; /* the same in all versions */
	const char *version;
	const struct vestal_ops *ops;
	uint32_t ops_len; /* pointers in ops, 7 or more; a later version never has fewer */
	uint32_t zero;
	/* Writes the state if it fits into cap bytes; answers how many it needs. Changes nothing. */
	long (*export_state)(void *buffer, size_t cap);
	/* Begins with this state, of whatever layout stands in it, or anew where length is 0. -EPROTO: of an unknown layout. */
	long (*import_state)(const struct vestal_host *host, const void *state, size_t length);
	/* As export_state, in an older layout; needed for the way back where state_layout changed. */
	long (*downgrade_state)(uint32_t layout, void *buffer, size_t cap);
	/* 0 where all is well with the driver itself. Called after import_state, before any call. May be NULL. */
	long (*self_test)(void);
	const struct vestal_field *fields; /* names for the state's fields; may be NULL */
	uint32_t fields_len;
	uint32_t own_names_len;
	const char *const *own_names; /* names of the own operations, for those who call by name; may be NULL */
};

/* The one symbol that a driver exports. */
extern const struct vestal_driver vestal_driver_v1;

#ifdef __cplusplus
}
#endif
#endif
