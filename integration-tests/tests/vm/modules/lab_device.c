// SPDX-License-Identifier: MIT OR Apache-2.0
/* A kernel driver to be patched while it is used: /dev/lab_device. Writing counts calls, reading tells the version and the count. */
#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>

static atomic_long_t calls;

/* Functions of their own, so that a patch can name them. */
static noinline const char *lab_version(void)
{
	return "v1";
}

static noinline ssize_t lab_write(struct file *file, const char __user *data, size_t length, loff_t *at)
{
	atomic_long_inc(&calls);
	return length;
}

static ssize_t lab_read(struct file *file, char __user *data, size_t length, loff_t *at)
{
	char line[64];
	int written = scnprintf(line, sizeof(line), "%s %ld\n", lab_version(), atomic_long_read(&calls));

	return simple_read_from_buffer(data, length, at, line, written);
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.read = lab_read,
	.write = lab_write,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "lab_device",
	.mode = 0666,
	.fops = &operations,
};

module_misc_device(device);
MODULE_DESCRIPTION("A device for the tests of live patching");
MODULE_LICENSE("Dual MIT/GPL");
