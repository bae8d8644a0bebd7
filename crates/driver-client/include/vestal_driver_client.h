/* Calls a driver of this device from a task, as read(2), write(2), ioctl(2) and poll(2) are, without a device node.
 *
 *   int line = vestal_driver_open(NULL, "serial0", 0, 0);
 *   if (line < 0) return -line;
 *   vestal_driver_write(line, "hello\n", 6);
 *   vestal_driver_close(line);
 *
 * Link with -ldriver_client (cdylib or staticlib). Every function may be called by any thread: calls of one handle follow one
 * another, vestal_driver_poll waits beside them. Nothing sets errno: it comes back negative.
 * While the driver is upgraded or its host restarted, calls wait and are then carried out, once. Only the one call that was
 * inside the driver when it crashed answers -EIO. After -ETIMEDOUT nobody knows whether a call was carried out.
 * Generated from crates/driver-client/src/c_interface.rs by its tests; do not edit.
 */

#ifndef VESTAL_DRIVER_CLIENT_H
#define VESTAL_DRIVER_CLIENT_H

#include <stddef.h>
#include <stdint.h>

// Events of `vestal_driver_poll`, as in poll(2).
#define VESTAL_DRIVER_IN 1

#define VESTAL_DRIVER_OUT 4

#define VESTAL_DRIVER_ERR 8

#define VESTAL_DRIVER_HUP 16

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Opens a driver. `run_dir` NULL is VESTAL_RUN_DIR or /run/vestal; `flags` go to the driver's open; `timeout_ms` is how long
// each call may take, an upgrade or restart of the driver included: 0 is 30 seconds, negative is for ever.
// Returns a handle, 1 or more, that ends with `vestal_driver_close` or with this process (not with fork); or -errno: -ENODEV
// where nobody serves the driver, -EACCES where this process may not, -EINVAL where the name is none, or the driver's own.
//
// # Safety
// `run_dir` is NULL or a text that ends, `name` is a text that ends.
int vestal_driver_open(const char *run_dir,
                       const char *name,
                       uint32_t flags,
                       int32_t timeout_ms);

// Closes a handle; calls of other threads that wait end with -EBADF. Returns 0 or -errno; the handle is gone in any case.
int vestal_driver_close(int handle);

// Reads up to `length` bytes, at most about 1 MiB. Returns how many came, or -errno.
//
// # Safety
// `length` bytes can be written at `buffer`.
int64_t vestal_driver_read(int handle, void *buffer, size_t length);

// Writes up to `length` bytes, at most about 1 MiB. Returns how many were taken, or -errno.
//
// # Safety
// `length` bytes can be read at `buffer`.
int64_t vestal_driver_write(int handle, const void *buffer, size_t length);

// The driver's ioctl: `in_len` bytes of argument, room for `out_cap` bytes of answer; both may be the same memory, and NULL
// where the length is 0. Returns what the driver answered, or -errno.
//
// # Safety
// `in_len` bytes can be read at `in`, `out_cap` bytes can be written at `out`.
int64_t vestal_driver_ioctl(int handle,
                            uint32_t command,
                            const void *in,
                            size_t in_len,
                            void *out,
                            size_t out_cap);

// Calls the driver's own operation with this number, as `vestal_driver_ioctl`. See `vestal_driver_operation`.
//
// # Safety
// As `vestal_driver_ioctl`.
int64_t vestal_driver_call(int handle,
                           uint32_t operation,
                           const void *in,
                           size_t in_len,
                           void *out,
                           size_t out_cap);

// The number of the driver's own operation with this name, or -errno: -EINVAL where it has none.
//
// # Safety
// `name` is a text that ends.
int64_t vestal_driver_operation(int handle, const char *name);

// Waits for one of `events`, at most `timeout_ms` (negative: for ever). Returns the events that are there, 0 when the time is
// over, or -errno. Other threads may read and write on the handle meanwhile.
int64_t vestal_driver_poll(int handle,
                           uint32_t events,
                           int32_t timeout_ms);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VESTAL_DRIVER_CLIENT_H */
