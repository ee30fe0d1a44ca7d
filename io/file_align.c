// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * file_align.c - what O_DIRECT asks of offsets, lengths and buffers.
 *
 * Sources, best first: statx(STATX_DIOALIGN) (Linux 6.1, file systems that tell);
 * BLKSSZGET on a block device; trial reads on a file. What cannot be found out
 * is taken to be 4096, which suits every device there is.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io/buf.h"
#include "io/file_priv.h"

#define ALIGN_SAFE 4096u

static bool power_of_two(uint32_t v)
{
	return v && !(v & (v - 1));
}

/* 1: found; 0: the file system does not tell; -EINVAL: no direct I/O here. */
static int ask_statx(struct file *f)
{
	struct statx sx;

	memset(&sx, 0, sizeof(sx));
	if (syscall(SYS_statx, f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) < 0 ||
	    !(sx.stx_mask & STATX_DIOALIGN))
		return 0;
	if (!sx.stx_dio_offset_align)
		return -EINVAL;
	f->align = sx.stx_dio_offset_align;
	f->mem_align = sx.stx_dio_mem_align;
	return 1;
}

/* The smallest read that is not refused; an empty file refuses none, and tells nothing. */
static int try_reads(struct file *f)
{
	void *buf = buf_alloc(ALIGN_SAFE);
	int rc = -EINVAL;

	if (!buf)
		return -ENOMEM;
	f->align = f->mem_align = ALIGN_SAFE;
	for (uint32_t a = f->size ? 512 : ALIGN_SAFE; a <= ALIGN_SAFE; a *= 2) {
		if (pread(f->fd, buf, a, 0) < 0 && errno == EINVAL)
			continue;
		f->align = f->mem_align = a;
		rc = 0;
		break;
	}
	buf_free(buf);
	return rc;
}

int file_align_probe(struct file *f)
{
	int rc = ask_statx(f);

	if (!rc && f->is_block) {
		f->align = f->mem_align = f->block_size;
		rc = 1;
	}
	if (!rc)
		rc = try_reads(f);
	if (rc < 0)
		return rc;
	if (!power_of_two(f->align) || !power_of_two(f->mem_align) || f->align > BOUNCE_LEN / 2 ||
	    f->mem_align > BUF_ALIGN)
		return -EINVAL;
	return 0;
}
