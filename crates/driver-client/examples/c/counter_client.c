/* Writes to a driver, and tells what it counted: counter_client NAME [TEXT] */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vestal_driver_client.h"

static int failed(const char *what, int64_t answer) {
	fprintf(stderr, "counter_client: %s: %s\n", what, strerror((int)-answer));
	return 1;
}

int main(int argc, char **argv) {
	const char *name = argc > 1 ? argv[1] : "counter";
	const char *text = argc > 2 ? argv[2] : "hello";

	int driver = vestal_driver_open(NULL, name, 0, 0);
	if (driver < 0)
		return failed(name, driver);
	int64_t answer = vestal_driver_write(driver, text, strlen(text));
	if (answer < 0)
		return failed("write", answer);

	/* Its own operation, by name: calls, bytes, checksum, calls of this handle. */
	uint64_t counters[4];
	int64_t peek = vestal_driver_operation(driver, "peek");
	if (peek < 0)
		return failed("peek", peek);
	answer = vestal_driver_call(driver, (uint32_t)peek, NULL, 0, counters, sizeof counters);
	if (answer != sizeof counters)
		return failed("peek", answer);
	printf("%" PRIu64 " calls, %" PRIu64 " bytes\n", counters[0], counters[1]);
	return vestal_driver_close(driver) < 0;
}
