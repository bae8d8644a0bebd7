/* Heartbeats from an application to the device's supervisor.
 *
 *   DAEMON_DATA_CFG cfg = GMI_DAEMON_DATA_CFG_INIT;
 *   if (GMI_DaemonInit(&cfg, 7, 0, 0) < 0 || GMI_DaemonRegister(&cfg) < 0) return 1;
 *   for (;;) { work(); GMI_DaemonReport(&cfg); }
 *
 * Link with -lheartbeat_client (cdylib or staticlib). All functions may be called by several threads, with
 * GMI_DaemonUnInit as the last one. There is no thread behind this: what was lost is sent again inside a call.
 * Generated from crates/heartbeat-client/src/c_interface.rs by its tests; do not edit.
 */

#ifndef GMI_DAEMON_H
#define GMI_DAEMON_H

#include <stddef.h>
#include <stdint.h>

// `block_ms`: Report never waits; the program calls `GMI_DaemonService` itself.
#define GMI_BLOCK_NEVER UINT32_MAX

// 0 or more: success; negative: one of `GMI_E_*`.
typedef int32_t GMI_RESULT;

// A socket's descriptor.
typedef int32_t FD_HANDLE;

// What the application sets before `GMI_DaemonInit`, and keeps until `GMI_DaemonUnInit`. Set it to zero first
// (`DAEMON_DATA_CFG cfg = GMI_DAEMON_DATA_CFG_INIT;`): zero is the default everywhere.
typedef struct DAEMON_DATA_CFG {
  // `sizeof(DAEMON_DATA_CFG)`, so that the structure can grow.
  uint32_t size;
  // Set by Init: the socket. Wait on it, never read or close it.
  FD_HANDLE fd;
  // The broker's IP address as text; NULL is 127.0.0.1.
  const char *server;
  // 16 octets; NULL takes what the supervisor handed over (GMI_KEY_FD), or none.
  const uint8_t *key;
  // Of the key; 0 with the one that was handed over.
  uint32_t generation;
  // How often Report will be called; 0 leaves it to the service's definition.
  uint32_t period_ms;
  // How many reports in a row may be missed; 0 leaves it to the service's definition.
  uint32_t misses;
  // How long Report waits for its acknowledgement; 0 is half a period. See `GMI_BLOCK_NEVER`.
  uint32_t block_ms;
  // How long Register waits; 0 is 3000.
  uint32_t timeout_ms;
  // The library's own.
  void *priv;
} DAEMON_DATA_CFG;

// A port.
typedef long long_t;

// A pointer is null, the structure's size is unknown, a port or an address is none.
#define GMI_E_ARG -1

// Init comes first, then Register, then Report.
#define GMI_E_STATE -2

// The system refused something: errno has why.
#define GMI_E_SYS -3

// The broker did not answer in time.
#define GMI_E_TIMEOUT -4

// The broker does not want this application, or the inherited key is another one's.
#define GMI_E_REFUSED -5

// The handle was closed, or never was one.
#define GMI_E_CLOSED -6

// The process forked since Init: the child must call Init itself.
#define GMI_E_FORKED -7

// More handles than one process may have.
#define GMI_E_LIMIT -8

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Opens and binds the socket; nothing is sent yet. `ServerPort` 0 is the port that came with the key, else 7420; `LocalPort` 0 is any.
// Reads and closes the key's descriptor and clears `GMI_KEY_FD`: call it before other threads read the environment.
// Returns the application's socket handle (also in `fd`), or an error code.
//
// # Safety
// `pDaemonData` is null or points to a structure whose first `size` octets can be read and written; `server` and `key` in it
// are null or point to a text that ends, and to 16 octets.
GMI_RESULT GMI_DaemonInit(struct DAEMON_DATA_CFG *pDaemonData,
                          int32_t AppId,
                          long_t ServerPort,
                          long_t LocalPort);

// Says that no more reports will come, waits for that a moment, and closes the handle. Ignores what isn't open. In a
// forked child it does nothing: the session is the parent's.
//
// # Safety
// As [`GMI_DaemonInit`].
void GMI_DaemonUnInit(struct DAEMON_DATA_CFG *pDaemonData);

// Waits until the broker has registered the application, at most `timeout_ms`. Returns 0, or an error code.
//
// # Safety
// As [`GMI_DaemonInit`].
GMI_RESULT GMI_DaemonRegister(struct DAEMON_DATA_CFG *pDaemonData);

// Says that the application is alive; call it at least once a period. Returns 0 where that has arrived, 1 where it is on its
// way (the next call sends it again if need be), or an error code.
//
// # Safety
// As [`GMI_DaemonInit`].
GMI_RESULT GMI_DaemonReport(struct DAEMON_DATA_CFG *pDaemonData);

// As `GMI_DaemonReport`, with a counter that changes as long as the real work goes on (`progress` of the service's `[heartbeat]`).
//
// # Safety
// As [`GMI_DaemonInit`].
GMI_RESULT GMI_DaemonReportProgress(struct DAEMON_DATA_CFG *pDaemonData,
                                    uint32_t counter);

// Receives, sends again, begins anew; returns at once. For programs with a loop of their own: when `fd` is readable, or
// `GMI_DaemonNextTimeout` is over. Returns 0, or an error code.
//
// # Safety
// As [`GMI_DaemonInit`].
GMI_RESULT GMI_DaemonService(struct DAEMON_DATA_CFG *pDaemonData);

// Milliseconds until `GMI_DaemonService` is to be called at the latest, at most an hour; or an error code.
//
// # Safety
// As [`GMI_DaemonInit`].
GMI_RESULT GMI_DaemonNextTimeout(struct DAEMON_DATA_CFG *pDaemonData);

// What a code means, in English. Never NULL; the text stays valid for ever.
const char *GMI_StrError(GMI_RESULT code);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GMI_DAEMON_H */

#define GMI_DAEMON_DATA_CFG_INIT {sizeof(DAEMON_DATA_CFG), -1, NULL, NULL, 0, 0, 0, 0, 0, NULL}
