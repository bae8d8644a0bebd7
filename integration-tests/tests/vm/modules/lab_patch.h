/* What both patches of lab_device have: another version is told, and writes answer something else where ANSWER says what. */
#include <linux/fs.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static const char *patched_version(void)
{
	return VERSION;
}

#ifdef ANSWER
static ssize_t patched_write(struct file *file, const char __user *data, size_t length, loff_t *at)
{
	return ANSWER;
}
#endif

static struct klp_func functions[] = {
	{ .old_name = "lab_version", .new_func = patched_version },
#ifdef ANSWER
	{ .old_name = "lab_write", .new_func = patched_write },
#endif
	{ },
};

static struct klp_object objects[] = {
	{ .name = "lab_device", .funcs = functions },
	{ },
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objects,
};

static int __init patch_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit patch_exit(void)
{
}

module_init(patch_init);
module_exit(patch_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_INFO(livepatch, "Y");
