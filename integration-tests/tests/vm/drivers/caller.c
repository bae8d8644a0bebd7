/* A program that uses a character device, for the tests in a virtual machine: caller MODE DEVICE STOP, until the file STOP is there.
 *
 *   write   writes again and again; prints how many calls, bytes and failures there were, how long the longest call took, and the sum
 *           of the checksums as the driver `counter` has it
 *   poll    waits until the device can be read, and reads it; prints how many times it was woken, and how many bytes it read
 *   feed    writes a byte that counts up, each time the device can be written, and checks nothing
 *
 * Each failure is told with its errno. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t calls, bytes, failures, sum, longest_us;

static uint64_t now_us(void) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static uint64_t checksum_of(const unsigned char *data, size_t length) {
	uint64_t sum = 0xcbf29ce484222325u;
	for (size_t at = 0; at < length; at++)
		sum = (sum ^ data[at]) * 0x100000001b3u;
	return sum;
}

static void failed(const char *what) {
	failures++;
	printf("%s: errno %d (%s)\n", what, errno, strerror(errno));
	fflush(stdout);
}

static void write_once(int device) {
	unsigned char data[600];
	size_t length = 1 + calls % sizeof data;
	for (size_t at = 0; at < length; at++)
		data[at] = (unsigned char)(calls * 31 + at);
	uint64_t begun = now_us();
	ssize_t written = write(device, data, length);
	uint64_t took = now_us() - begun;
	if (took > longest_us)
		longest_us = took;
	if (written < 0) {
		failed("write");
		return;
	}
	if ((size_t)written != length) {
		errno = 0;
		failed("a short write");
	}
	calls++;
	bytes += (uint64_t)written;
	sum += checksum_of(data, (size_t)written);
}

static void poll_once(int device, short events) {
	struct pollfd polled = {.fd = device, .events = events};
	/* Now and then it has to look for STOP. */
	int there = poll(&polled, 1, 1000);
	if (there < 0 || polled.revents & (POLLERR | POLLNVAL)) {
		failed("poll");
		return;
	}
	if (there == 0)
		return;
	calls++;
	if (events == POLLOUT) {
		unsigned char byte = (unsigned char)bytes;
		if (write(device, &byte, 1) != 1)
			failed("write");
		else
			bytes++;
		return;
	}
	unsigned char data[256];
	ssize_t got = read(device, data, sizeof data);
	if (got < 0) {
		failed("read");
		return;
	}
	bytes += (uint64_t)got;
	sum += checksum_of(data, (size_t)got);
}

int main(int count, char **words) {
	if (count != 4)
		return 2;
	int device = open(words[2], O_RDWR);
	if (device < 0) {
		perror(words[2]);
		return 1;
	}
	while (access(words[3], F_OK) != 0) {
		if (strcmp(words[1], "write") == 0)
			write_once(device);
		else
			poll_once(device, strcmp(words[1], "feed") == 0 ? POLLOUT : POLLIN);
		/* The machine has one processor, emulated, and others want some of it. */
		poll(NULL, 0, 1);
	}
	printf("calls %llu bytes %llu failed %llu longest_us %llu checksum %016llx\n", (unsigned long long)calls, (unsigned long long)bytes,
	       (unsigned long long)failures, (unsigned long long)longest_us, (unsigned long long)sum);
	return close(device);
}
