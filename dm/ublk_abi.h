/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ublk_abi.h - the part of the kernel's ublk interface that qchain speaks.
 *
 * Numbers and layouts are the kernel's (include/uapi/linux/ublk_cmd.h); a header of our
 * own because a distribution's is often years older than the kernel it runs. Only
 * what ublk.c uses is here. Structures are in host byte order.
 */
#ifndef QCHAIN_DM_UBLK_ABI_H
#define QCHAIN_DM_UBLK_ABI_H

#include <assert.h>
#include <linux/ioctl.h>
#include <stddef.h>
#include <stdint.h>

/* In the SQE of a control command on /dev/ublk-control (128-byte SQEs). */
struct ublk_ctrl {
	uint32_t dev_id;           /* UINT32_MAX with ADD_DEV: any */
	uint16_t queue_id;         /* UINT16_MAX: the command is not about a queue */
	uint16_t len;              /* of the buffer at addr */
	uint64_t addr;
	uint64_t data;
	uint16_t dev_path_len, pad;
	uint32_t reserved;
};
static_assert(sizeof(struct ublk_ctrl) == 32, "ublk control command");

#define UBLK_CTRL_R(nr)  _IOR('u', nr, struct ublk_ctrl)
#define UBLK_CTRL_RW(nr) _IOWR('u', nr, struct ublk_ctrl)
#define UBLK_GET_DEV_INFO        UBLK_CTRL_R(0x02)
#define UBLK_ADD_DEV             UBLK_CTRL_RW(0x04)
#define UBLK_DEL_DEV             UBLK_CTRL_RW(0x05)
#define UBLK_START_DEV           UBLK_CTRL_RW(0x06)  /* data: pid of the server */
#define UBLK_STOP_DEV            UBLK_CTRL_RW(0x07)
#define UBLK_SET_PARAMS          UBLK_CTRL_RW(0x08)
#define UBLK_GET_PARAMS          UBLK_CTRL_R(0x09)
#define UBLK_START_USER_RECOVERY UBLK_CTRL_RW(0x10)
#define UBLK_END_USER_RECOVERY   UBLK_CTRL_RW(0x11)  /* data: pid of the server */
#define UBLK_GET_FEATURES        UBLK_CTRL_R(0x13)   /* Linux 6.5 */
#define UBLK_DEL_DEV_ASYNC       UBLK_CTRL_R(0x14)   /* Linux 6.9 */
#define UBLK_UPDATE_SIZE         UBLK_CTRL_RW(0x15)  /* data: sectors */

/* Device flags, also the bits of GET_FEATURES. */
#define UBLK_F_USER_RECOVERY         (1ull << 3)     /* the device outlives its server */
#define UBLK_F_USER_RECOVERY_REISSUE (1ull << 4)     /* and requests it had are sent to the next one */
#define UBLK_F_CMD_IOCTL_ENCODE      (1ull << 6)
#define UBLK_F_UPDATE_SIZE           (1ull << 10)    /* Linux 6.16 */

#define UBLK_STATE_DEAD     0
#define UBLK_STATE_LIVE     1
#define UBLK_STATE_QUIESCED 2

struct ublk_dev_info {
	uint16_t nr_hw_queues, queue_depth, state, pad0;
	uint32_t max_io_buf_bytes, dev_id;
	int32_t server_pid;
	uint32_t pad1;
	uint64_t flags;
	uint64_t server_flags;     /* the server's own; the kernel only keeps it */
	uint32_t owner_uid, owner_gid;
	uint64_t reserved[2];
};
static_assert(sizeof(struct ublk_dev_info) == 64, "ublk device info");

#define UBLK_ATTR_READ_ONLY      (1u << 0)
#define UBLK_ATTR_VOLATILE_CACHE (1u << 2)
#define UBLK_ATTR_FUA            (1u << 3)

#define UBLK_PARAM_BASIC   (1u << 0)
#define UBLK_PARAM_DISCARD (1u << 1)

/* The head of what SET_PARAMS takes; `len` tells the kernel where it ends. */
struct ublk_params {
	uint32_t len, types;
	struct {
		uint32_t attrs;
		uint8_t logical_bs_shift, physical_bs_shift, io_opt_shift, io_min_shift;
		uint32_t max_sectors, chunk_sectors;
		uint64_t dev_sectors, virt_boundary_mask;
	} basic;
	struct {
		uint32_t alignment, granularity;
		uint32_t max_discard_sectors, max_write_zeroes_sectors;
		uint16_t max_segments, reserved;
	} discard;
	uint32_t pad;
};
static_assert(offsetof(struct ublk_params, discard) == 40, "ublk parameters");
static_assert(sizeof(struct ublk_params) == 64, "ublk parameters");

/* --- data: commands on /dev/ublkcN, one outstanding for each tag --- */
struct ublk_io_cmd {
	uint16_t q_id, tag;
	int32_t result;            /* COMMIT: bytes done, or -errno */
	uint64_t addr;             /* the tag's buffer */
};
static_assert(sizeof(struct ublk_io_cmd) == 16, "ublk I/O command");

#define UBLK_IO_FETCH            _IOWR('u', 0x20, struct ublk_io_cmd)
#define UBLK_IO_COMMIT_AND_FETCH _IOWR('u', 0x21, struct ublk_io_cmd)

/* What a completed command means: a request to serve, or (-ENODEV) that no more will come. */
#define UBLK_IO_RES_OK 0

/* One for each tag, in the page mapped from /dev/ublkcN at offset 0. */
struct ublk_io_desc {
	uint32_t op_flags;         /* bits 0-7: operation, above: flags */
	uint32_t nr_sectors;
	uint64_t start_sector;
	uint64_t addr;
};
static_assert(sizeof(struct ublk_io_desc) == 24, "ublk I/O descriptor");

#define UBLK_OP_MASK         0xffu
#define UBLK_OP_READ         0
#define UBLK_OP_WRITE        1
#define UBLK_OP_FLUSH        2
#define UBLK_OP_DISCARD      3
#define UBLK_OP_WRITE_ZEROES 5
#define UBLK_OP_F_FUA        (1u << 13)
#define UBLK_OP_F_NOUNMAP    (1u << 15)

#endif
