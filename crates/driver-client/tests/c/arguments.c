/* Every call with good and with wrong arguments. RUN_DIR is where the test's host serves can0. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vestal_driver_client.h"

#define EXPECT(call, value) \
	do { \
		long long got = (call); \
		if (got != (value)) { \
			fprintf(stderr, "line %d: %s is %lld, not %lld\n", __LINE__, #call, got, (long long)(value)); \
			return 1; \
		} \
	} while (0)

static int shared;

static void *writer(void *result) {
	for (int at = 0; at < 100; at++)
		if (vestal_driver_write(shared, "12345678", 8) != 8)
			return result;
	return NULL;
}

int main(int argc, char **argv) {
	char buffer[8];
	if (argc != 2)
		return 2;
	EXPECT(vestal_driver_open(argv[1], NULL, 0, 0), -EINVAL);
	EXPECT(vestal_driver_open(argv[1], "../x", 0, 0), -EINVAL);
	EXPECT(vestal_driver_open("/nowhere", "can0", 0, 50), -ETIMEDOUT);
	EXPECT(vestal_driver_read(0, buffer, 8), -EBADF);
	EXPECT(vestal_driver_close(77), -EBADF);

	int first = vestal_driver_open(argv[1], "can0", 0, 0);
	EXPECT(first > 0, 1);
	EXPECT(vestal_driver_write(first, "no", 2), -ENOSPC);
	EXPECT(vestal_driver_write(first, NULL, 2), -EFAULT);
	EXPECT(vestal_driver_write(first, NULL, 0), 0);
	EXPECT(vestal_driver_write(first, buffer, (size_t)-1), -EFAULT);
	EXPECT(vestal_driver_read(first, buffer, sizeof buffer), 4);
	EXPECT(memcmp(buffer, "data", 4), 0);
	EXPECT(vestal_driver_ioctl(first, 1, buffer, 8, buffer, 3), 3);
	EXPECT(vestal_driver_ioctl(first, 1, NULL, 8, buffer, 3), -EFAULT);
	EXPECT(vestal_driver_operation(first, "peek"), 2);
	EXPECT(vestal_driver_operation(first, "pek"), -EINVAL);
	EXPECT(vestal_driver_call(first, 2, NULL, 0, buffer, sizeof buffer), 4);
	EXPECT(vestal_driver_poll(first, VESTAL_DRIVER_IN, -1), VESTAL_DRIVER_IN);
	EXPECT(vestal_driver_poll(first, VESTAL_DRIVER_OUT, 0), 0);

	/* A handle is its process's. */
	fflush(NULL);
	pid_t child = fork();
	if (child == 0)
		_exit(vestal_driver_write(first, "x", 1) == -EBADF && vestal_driver_close(first) == -EBADF ? 0 : 1);
	int status;
	EXPECT(waitpid(child, &status, 0), child);
	EXPECT(status, 0);

	shared = first;
	pthread_t threads[4];
	for (int at = 0; at < 4; at++)
		EXPECT(pthread_create(&threads[at], NULL, writer, &shared), 0);
	for (int at = 0; at < 4; at++) {
		void *wrong;
		EXPECT(pthread_join(threads[at], &wrong), 0);
		EXPECT(wrong == NULL, 1);
	}

	int second = vestal_driver_open(argv[1], "can0", 0, -1);
	EXPECT(second > first, 1);
	EXPECT(vestal_driver_close(first), 0);
	EXPECT(vestal_driver_close(first), -EBADF);
	EXPECT(vestal_driver_write(second, "x", 1), 1);
	EXPECT(vestal_driver_close(second), 0);
	return 0;
}
