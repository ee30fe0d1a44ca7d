// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * probe.c - what an image is by its first bytes, where a person named it without a format.
 *
 * Invariant: an image of a format we do not have is refused by name, never served as raw: its
 * tables would reach the guest as a disk, and the guest's writes would destroy them.
 */
#include <errno.h>
#include <string.h>

#include "qcow/qcow2.h"

#define HEAD_LEN 512u

static const struct {
	const char *format;
	unsigned off;
	const char *magic;
	unsigned len;
} foreign[] = {
	{ "vmdk", 0, "KDMV", 4 },
	{ "vmdk", 0, "COWD", 4 },
	{ "vmdk", 0, "# Disk DescriptorFile", 21 },
	{ "vhdx", 0, "vhdxfile", 8 },
	{ "vpc (VHD)", 0, "conectix", 8 },
	{ "vdi", 64, "\x7f\x10\xda\xbe", 4 },
	{ "qed", 0, "QED\0", 4 },
	{ "parallels", 0, "WithoutFreeSpace", 16 },
	{ "parallels", 0, "WithouFreSpacExt", 16 },
	{ "luks", 0, "LUKS\xba\xbe", 6 },
};

int co_layer_probe(struct file *f, enum layer_format *out, struct error *e)
{
	unsigned char head[HEAD_LEN];
	int rc = co_file_read(f, 0, head, sizeof(head));
	uint32_t magic;

	if (rc < 0)
		return error_set_errno(e, -rc, "cannot read '%s'", file_path(f));
	memcpy(&magic, head, sizeof(magic));
	if (be32toh(magic) == QCOW2_MAGIC) {
		*out = FORMAT_QCOW2;
		return 0;
	}
	for (unsigned i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++)
		if (!memcmp(head + foreign[i].off, foreign[i].magic, foreign[i].len))
			return error_set(e, ENOTSUP,
					 "'%s' looks like a %s image, which qchain does not have; convert it "
					 "with qemu-img convert -O qcow2, or name the format raw if that is "
					 "what it is",
					 file_path(f), foreign[i].format);
	*out = FORMAT_RAW;
	return 0;
}
