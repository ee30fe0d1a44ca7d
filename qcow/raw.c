// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * raw.c - the raw format as a layer: guest bytes are file bytes.
 *
 * A raw layer answers for every byte, so nothing below it is ever asked, and every
 * write is in place: a hole is reported as zeros with the place where a
 * write belongs. A file whose size is no multiple of 512 has a disk rounded up
 * to one, as in QEMU: the missing bytes read as zeros, and a write to the last
 * sector makes the file whole.
 */
#include "qcow/raw.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "io/log.h"

static uint64_t sectors_up(uint64_t bytes)
{
	return (bytes + RAW_UNIT - 1) & ~(uint64_t)(RAW_UNIT - 1);
}

int raw_open(struct raw *raw, struct file *f, const struct layer_opts *o, struct error *e)
{
	uint64_t file_bytes = file_size(f);

	*raw = (struct raw){.file = f, .off = o->raw_offset, .writable = o->writable};
	if (o->raw_offset % RAW_UNIT || o->raw_size % RAW_UNIT)
		return error_set(
			e, EINVAL,
			"'%s': \"offset\" and \"size\" of a raw image must be multiples of %u",
			file_path(f), RAW_UNIT);
	if (o->raw_offset > file_bytes)
		return error_set(e, EINVAL,
				 "'%s': \"offset\" is %" PRIu64 ", and the file has only %" PRIu64
				 " bytes",
				 file_path(f), o->raw_offset, file_bytes);
	raw->size = o->raw_size ? o->raw_size : sectors_up(file_bytes - o->raw_offset);
	if (raw->size > sectors_up(file_bytes - o->raw_offset))
		return error_set(e, EINVAL,
				 "'%s': \"offset\" %" PRIu64 " and \"size\" %" PRIu64
				 " reach beyond the "
				 "end of the file, %" PRIu64 " bytes",
				 file_path(f), o->raw_offset, o->raw_size, file_bytes);
	return 0;
}

/*
 * The run at guest_off in whole sectors: one that holds a byte of data is data. A file
 * system may report any boundary, although most report blocks.
 */
static int co_run(struct raw *raw, uint64_t guest_off, uint64_t bytes, bool *data, uint64_t *len)
{
	int rc = co_file_extent(raw->file, raw->off + guest_off, data, len);

	if (rc < 0)
		return rc;
	/* of the last sector the file may hold a part only; the rest reads as zeros */
	if (*len >= bytes || raw->off + guest_off + *len >= file_size(raw->file)) {
		*len = bytes;
	} else if (*data) {
		*len = sectors_up(*len);
	} else {
		*len &= ~(uint64_t)(RAW_UNIT - 1);
		if (!*len) {
			*data = true;
			*len = RAW_UNIT;
		}
	}
	if (*len > bytes)
		*len = bytes;
	return 0;
}

int co_raw_extents(struct raw *raw, uint64_t guest_off, uint64_t bytes, struct extent *out,
		   unsigned max)
{
	uint64_t end = guest_off + bytes < raw->size ? guest_off + bytes : raw->size;
	unsigned n = 0;

	while (guest_off < end) {
		struct extent *last = n ? &out[n - 1] : NULL;
		enum extent_kind kind;
		uint64_t len;
		bool data;
		int rc = co_run(raw, guest_off, end - guest_off, &data, &len);

		if (rc < 0)
			return rc;
		kind = data ? EXT_DATA : EXT_ZERO;
		if (last && last->kind == kind) {
			last->bytes += len;
		} else if (n == max) {
			break;
		} else {
			out[n++] = (struct extent){
				.guest_off = guest_off,
				.bytes = len,
				.kind = kind,
				.in_place = raw->writable,
				.host_off = raw->off + guest_off,
			};
		}
		guest_off += len;
	}
	return (int)n;
}

/*
 * After a flush that failed the kernel takes what it could not write for written, and the
 * next flush would succeed without it, as would one that is under way: none may succeed any more.
 */
int co_raw_flush(struct raw *raw)
{
	int rc = raw->fault ? -EIO : co_file_flush(raw->file);

	if (rc < 0 && !raw->fault) {
		raw->fault = "a flush failed, and what was written before it may be lost";
		raw->writable = false;
		log_error("image '%s' takes no more writes: %s (%s)", file_path(raw->file), raw->fault,
			  strerror(-rc));
	}
	return raw->fault ? -EIO : rc;
}

int co_raw_zero(struct raw *raw, uint64_t guest_off, uint64_t bytes, bool unmap)
{
	assert(raw->writable && guest_off + bytes <= raw->size);
	return co_file_zero(raw->file, raw->off + guest_off, bytes, unmap ? IO_F_UNMAP : 0);
}

/* By zeroing, not by IO_DISCARD: a block device may keep or invent bytes after a discard. */
int co_raw_discard(struct raw *raw, uint64_t guest_off, uint64_t bytes)
{
	return co_raw_zero(raw, guest_off, bytes, true);
}
