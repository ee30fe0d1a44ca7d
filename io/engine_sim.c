// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * engine_sim.c - the simulated disk: sim.h says what it promises.
 *
 * A request waits in `pending` until a turn picks it; only then does it act on
 * the file, and only then can it fail. Every act on a file becomes a struct change in the
 * journal of the disk. A flush moves the changes that were there when it was
 * submitted into the durable copy of the file. A crash picks from the journal and
 * from what is pending.
 *
 * Invariants: the real file shows all changes; the durable copy and the journal
 * together lead to the same bytes; a sector of the durable copy never goes back
 * to a change older than the one it has (dseq).
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/buf.h"
#include "io/log.h"
#include "io/reactor_priv.h"
#include "io/sim.h"

#define SECTOR 512u
#define FILE_CAP (2ull << 30)     /* of address space; a file that grows beyond is -EFBIG */
#define MAX_FDS 1024
#define TURN_MAX 8                /* completions in one turn */
#define DELAY_MAX 96              /* completions that overtake one that is held back */
#define NEVER UINT64_MAX

struct sim_file {
	dev_t dev;
	ino_t ino;
	int fd;                        /* our own: the descriptor given out may be O_DIRECT */
	unsigned refs;                 /* descriptors given out */
	bool loaded;                   /* the durable copy is there */
	unsigned char *durable;
	uint32_t *dseq;                /* by sector: the change it holds; 0 = as it was found */
	uint64_t dsize;
	struct sim_file *next;
};

/* A change of a file, widened to whole sectors. */
struct change {
	struct sim_file *f;
	uint32_t seq;
	bool truncate;                 /* to size_end */
	bool lost;                     /* a flush failed over it: no flush will save it */
	uint64_t off, len;             /* multiples of SECTOR; len may be 0 */
	unsigned char *data;           /* NULL: zeros */
	uint64_t size_end;             /* the file is at least so long afterwards; 0: size unchanged */
};

struct pending {
	struct engine_req rq;
	struct sim_file *f;
	uint64_t not_before;           /* completions */
	uint32_t flush_seq;            /* FDATASYNC: changes up to this one become durable */
};

struct sim_disk {
	/* set when made */
	struct sim_opts o;
	unsigned lazy;                 /* one in so many requests is held back */

	uint64_t rng;
	uint64_t clock_ns;
	uint64_t steps;
	struct sim_faults faults;
	struct sim_file *files;
	struct sim_file *by_fd[MAX_FDS];
	struct pending *pending;
	unsigned nr_pending;
	bool refused;                  /* a request, to be offered again */
	struct change *journal;        /* in order */
	size_t nr_changes, cap;
	uint32_t seq;
};

uint64_t sim_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static uint64_t below(struct sim_disk *d, uint64_t n)
{
	return sim_below(&d->rng, n);
}

static bool chance(struct sim_disk *d, unsigned in_a_million)
{
	return in_a_million && below(d, 1000000) < in_a_million;
}

static void *need(void *p)
{
	if (!p) {
		log_error("the simulated disk is out of memory");
		abort();
	}
	return p;
}

/* What the real file system must do for us, or the simulation means nothing. */
static void must(bool ok, const char *what)
{
	if (!ok) {
		log_error("the simulated disk cannot %s: %m", what);
		abort();
	}
}

/* --- disks --- */

struct sim_disk *sim_disk_new(const struct sim_opts *o)
{
	struct sim_disk *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->o = *o;
	d->rng = o->seed;
	d->faults = o->faults;
	d->lazy = 2u << below(d, 6);
	d->clock_ns = 1000000000;
	return d;
}

void sim_disk_free(struct sim_disk *d)
{
	if (!d)
		return;
	assert(!d->nr_pending && !d->files);
	for (size_t i = 0; i < d->nr_changes; i++)
		free(d->journal[i].data);
	free(d->journal);
	free(d);
}

void sim_disk_set_faults(struct sim_disk *d, const struct sim_faults *faults)
{
	d->faults = *faults;
}

uint64_t sim_disk_steps(const struct sim_disk *d)
{
	return d->steps;
}

/* --- files --- */

static uint64_t real_size(const struct sim_file *f)
{
	struct stat st;

	must(fstat(f->fd, &st) == 0, "stat a file");
	return st.st_size;
}

/* What the file holds at off now; zeros beyond its end. */
static void read_real(const struct sim_file *f, uint64_t off, void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(f->fd, (char *)buf + done, len - done, off + done);

		must(n >= 0 || errno == EINTR, "read a file");
		if (n == 0)
			break;
		done += n > 0 ? (size_t)n : 0;
	}
	memset((char *)buf + done, 0, len - done);
}

static void write_real(const struct sim_file *f, uint64_t off, const void *buf, size_t len)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(f->fd, (const char *)buf + done, len - done, off + done);

		must(n > 0 || (n < 0 && errno == EINTR), "write a file");
		done += n > 0 ? (size_t)n : 0;
	}
}

static void zero_real(const struct sim_file *f, uint64_t off, uint64_t len)
{
	if (len)
		must(fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len) == 0,
		     "punch a hole");
}

static void *reserve(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return need(p == MAP_FAILED ? NULL : p);
}

/* Takes the durable copy, before the first change. */
static void load(struct sim_file *f)
{
	off_t off = 0, end;

	if (f->loaded)
		return;
	f->loaded = true;
	f->durable = reserve(FILE_CAP);
	f->dseq = reserve(FILE_CAP / SECTOR * sizeof(*f->dseq));
	f->dsize = real_size(f);
	while ((off = lseek(f->fd, off, SEEK_DATA)) >= 0) {
		end = lseek(f->fd, off, SEEK_HOLE);
		must(end > off && (uint64_t)end <= FILE_CAP, "find the data of a file");
		read_real(f, off, f->durable + off, end - off);
		off = end;
	}
}

static struct sim_file *file_at(struct sim_disk *d, int fd)
{
	struct sim_file *f;
	struct stat st;
	char self[64];

	must(fstat(fd, &st) == 0, "stat a file");
	for (f = d->files; f; f = f->next)
		if (f->dev == st.st_dev && f->ino == st.st_ino)
			return f;
	f = need(calloc(1, sizeof(*f)));
	f->dev = st.st_dev;
	f->ino = st.st_ino;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	f->fd = open(self, O_RDWR | O_CLOEXEC);
	if (f->fd < 0)
		f->fd = open(self, O_RDONLY | O_CLOEXEC);
	must(f->fd >= 0, "open a file");
	f->next = d->files;
	d->files = f;
	return f;
}

static struct sim_disk *disk_of(struct reactor *r)
{
	return r->engine_state;
}

static int adopt(struct sim_disk *d, int fd)
{
	if (fd < 0)
		return -errno;
	assert(fd < MAX_FDS && !d->by_fd[fd]);
	d->by_fd[fd] = file_at(d, fd);
	d->by_fd[fd]->refs++;
	return fd;
}

static int sim_open(struct reactor *r, const char *path, int flags, mode_t mode)
{
	return adopt(disk_of(r), open(path, flags, mode));
}

static int sim_reopen(struct reactor *r, int fd, int flags)
{
	char self[64];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	return adopt(disk_of(r), open(self, flags));
}

/* A file whose descriptors are all closed stays known: its changes may still be lost. */
static int sim_close(struct reactor *r, int fd)
{
	struct sim_disk *d = disk_of(r);

	assert(fd >= 0 && fd < MAX_FDS && d->by_fd[fd]);
	d->by_fd[fd]->refs--;
	d->by_fd[fd] = NULL;
	return close(fd) < 0 ? -errno : 0;
}

static off_t sim_seek(struct reactor *r, int fd, off_t off, int whence)
{
	off_t n = lseek(disk_of(r)->by_fd[fd]->fd, off, whence);

	return n < 0 ? -errno : n;
}

/* --- changes --- */

static uint64_t sector_down(uint64_t v)
{
	return v & ~(uint64_t)(SECTOR - 1);
}

static uint64_t sector_up(uint64_t v)
{
	return sector_down(v + SECTOR - 1);
}

static bool survives_all(struct sim_disk *d, const struct change *c, uint64_t sector)
{
	return true;
}

typedef bool survives_fn(struct sim_disk *d, const struct change *c, uint64_t sector);

static void durable_truncate(struct sim_file *f, const struct change *c)
{
	uint64_t end = sector_up(f->dsize), s;

	if (c->size_end < f->dsize)
		memset(f->durable + c->size_end, 0, f->dsize - c->size_end);
	for (s = sector_up(c->size_end); s < end; s += SECTOR)
		f->dseq[s / SECTOR] = c->seq;
	f->dsize = c->size_end;
}

/* Makes durable what of the change survives. */
static void durable_apply(struct sim_disk *d, const struct change *c, survives_fn *survives)
{
	struct sim_file *f = c->f;
	uint64_t i, end;

	if (c->truncate || !c->len) {
		if (!survives(d, c, 0))
			return;
		if (c->truncate)
			durable_truncate(f, c);
		else if (f->dsize < c->size_end)
			f->dsize = c->size_end;
		return;
	}
	for (i = 0; i < c->len; i += SECTOR) {
		uint64_t s = c->off + i;

		if (c->seq < f->dseq[s / SECTOR] || !survives(d, c, s))
			continue;
		if (c->data)
			memcpy(f->durable + s, c->data + i, SECTOR);
		else
			memset(f->durable + s, 0, SECTOR);
		f->dseq[s / SECTOR] = c->seq;
		end = s + SECTOR < c->size_end ? s + SECTOR : c->size_end;
		if (f->dsize < end)
			f->dsize = end;
	}
}

static void journal_add(struct sim_disk *d, const struct change *c)
{
	if (d->nr_changes == d->cap) {
		d->cap = d->cap ? d->cap * 2 : 256;
		d->journal = need(realloc(d->journal, d->cap * sizeof(*d->journal)));
	}
	d->journal[d->nr_changes++] = *c;
}

static void change_init(struct sim_disk *d, struct sim_file *f, struct change *c)
{
	load(f);
	*c = (struct change){ .f = f, .seq = ++d->seq };
}

/* Bytes of [off, +len) of a write whose first byte is at wr_off, widened to sectors. */
static void change_bytes(struct sim_disk *d, struct sim_file *f, struct change *c, uint64_t off,
			 uint64_t len, const struct iovec *iov, unsigned nr_iov, uint64_t skip)
{
	change_init(d, f, c);
	c->off = sector_down(off);
	c->len = sector_up(off + len) - c->off;
	c->size_end = off + len;
	c->data = need(malloc(c->len));
	if (off != c->off)
		read_real(f, c->off, c->data, SECTOR);
	if (sector_down(off + len) != off + len)
		read_real(f, c->off + c->len - SECTOR, c->data + c->len - SECTOR, SECTOR);
	if (iov)
		iov_to_buf(iov, nr_iov, skip, c->data + (off - c->off), len);
	else
		memset(c->data + (off - c->off), 0, len);
}

static void change_fallocate(struct sim_disk *d, struct sim_file *f, struct change *c,
			     const struct engine_req *rq)
{
	uint64_t size = real_size(f), end = rq->off + rq->len;

	if (rq->mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) {
		uint64_t stop = end < size || !(rq->mode & FALLOC_FL_KEEP_SIZE) ? end : size;

		if (rq->off >= stop) {
			change_init(d, f, c);
		} else if ((rq->off | stop) % SECTOR) {
			change_bytes(d, f, c, rq->off, stop - rq->off, NULL, 0, 0);
		} else {
			change_init(d, f, c);
			c->off = rq->off;
			c->len = stop - rq->off;
		}
	} else {
		change_init(d, f, c);
	}
	c->size_end = rq->mode & FALLOC_FL_KEEP_SIZE ? 0 : end;
}

/* Shows a change of bytes in the real file; the journal takes it over. */
static void commit_bytes(struct sim_disk *d, const struct change *c, uint64_t off, uint64_t len,
			 bool durable)
{
	write_real(c->f, off, c->data + (off - c->off), len);
	if (durable) {
		durable_apply(d, c, survives_all);
		free(c->data);
	} else {
		journal_add(d, c);
	}
}

/* --- carrying out --- */

/* How much of a transfer is done at once; it stops short at the end of a sector only. */
static size_t moved(struct sim_disk *d, uint64_t off, size_t len)
{
	size_t part = len;

	if (len > SECTOR && chance(d, d->faults.partial))
		part = sector_up(off + 1 + below(d, len - 1)) - off;
	return part < len ? part : len;
}

static int do_read(struct sim_disk *d, const struct pending *p)
{
	const struct engine_req *rq = &p->rq;
	size_t len = iov_total(rq->iov, rq->nr_iov);
	uint64_t size = real_size(p->f);
	unsigned char *buf;

	if (chance(d, d->faults.read_eio))
		return -EIO;
	if (rq->off >= size)
		return 0;
	if (len > size - rq->off)
		len = size - rq->off;
	len = moved(d, rq->off, len);
	buf = need(malloc(len));
	read_real(p->f, rq->off, buf, len);
	iov_from_buf(rq->iov, rq->nr_iov, 0, buf, len);
	free(buf);
	return (int)len;
}

/* A write that fails may still have changed some sectors. */
static int write_fails(struct sim_disk *d, const struct pending *p, size_t len, int err)
{
	const struct engine_req *rq = &p->rq;
	uint64_t first = below(d, len), n = 1 + below(d, len - first);
	struct change c;

	if (below(d, 2))
		return err;
	/* as sectors of the file */
	first = sector_down(rq->off + first) > rq->off ? sector_down(rq->off + first) - rq->off : 0;
	n = sector_up(rq->off + first + n) - (rq->off + first);
	n = n < len - first ? n : len - first;
	change_bytes(d, p->f, &c, rq->off + first, n, rq->iov, rq->nr_iov, first);
	commit_bytes(d, &c, rq->off + first, n, false);
	return err;
}

static int do_write(struct sim_disk *d, const struct pending *p)
{
	const struct engine_req *rq = &p->rq;
	size_t len = iov_total(rq->iov, rq->nr_iov);
	struct change c;

	if (!len)
		return 0;
	if (rq->off + len > FILE_CAP)
		return -EFBIG;
	if (chance(d, d->faults.write_eio))
		return write_fails(d, p, len, -EIO);
	if (rq->off + len > real_size(p->f) && chance(d, d->faults.enospc))
		return write_fails(d, p, len, -ENOSPC);
	len = moved(d, rq->off, len);
	change_bytes(d, p->f, &c, rq->off, len, rq->iov, rq->nr_iov, 0);
	commit_bytes(d, &c, rq->off, len, rq->rw_flags & RWF_DSYNC);
	return (int)len;
}

static int do_flush(struct sim_disk *d, const struct pending *p)
{
	bool fails = chance(d, d->faults.flush_eio);
	size_t kept = 0;

	for (size_t i = 0; i < d->nr_changes; i++) {
		struct change *c = &d->journal[i];
		bool covered = c->f == p->f && c->seq <= p->flush_seq && !c->lost;

		if (covered && fails)
			c->lost = true;
		if (!covered || fails) {
			d->journal[kept++] = *c;
			continue;
		}
		durable_apply(d, c, survives_all);
		free(c->data);
	}
	d->nr_changes = kept;
	return fails ? -EIO : 0;
}

static int do_fallocate(struct sim_disk *d, const struct pending *p)
{
	const struct engine_req *rq = &p->rq;
	uint64_t end = rq->off + rq->len, size = real_size(p->f);
	struct change c;

	if (end > FILE_CAP)
		return -EFBIG;
	if (rq->mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		return -EOPNOTSUPP;
	if (chance(d, d->faults.write_eio))
		return -EIO;
	if (!(rq->mode & FALLOC_FL_KEEP_SIZE) && end > size && chance(d, d->faults.enospc))
		return -ENOSPC;
	change_fallocate(d, p->f, &c, rq);
	if (c.size_end > size)
		must(ftruncate(p->f->fd, c.size_end) == 0, "make a file longer");
	if (rq->mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
		zero_real(p->f, rq->off, rq->len);
	journal_add(d, &c);
	return 0;
}

static void change_truncate(struct sim_disk *d, struct sim_file *f, struct change *c, uint64_t len)
{
	change_init(d, f, c);
	c->truncate = true;
	c->size_end = len;
	/* what is cut off, so that a crash knows what it may have to bring back */
	c->off = sector_down(len);
}

static int truncate_file(struct sim_disk *d, struct sim_file *f, uint64_t len)
{
	struct change c;

	if (len > FILE_CAP)
		return -EFBIG;
	change_truncate(d, f, &c, len);
	must(ftruncate(f->fd, len) == 0, "truncate a file");
	journal_add(d, &c);
	return 0;
}

static int sim_truncate(struct reactor *r, int fd, uint64_t len)
{
	struct sim_disk *d = disk_of(r);

	return truncate_file(d, d->by_fd[fd], len);
}

static int do_truncate(struct sim_disk *d, const struct pending *p)
{
	if (chance(d, d->faults.write_eio))
		return -EIO;
	if (p->rq.len > real_size(p->f) && chance(d, d->faults.enospc))
		return -ENOSPC;
	return truncate_file(d, p->f, p->rq.len);
}

static int carry_out(struct sim_disk *d, const struct pending *p)
{
	if (chance(d, d->faults.again))
		return below(d, 2) ? -EAGAIN : -EINTR;
	switch (p->rq.opcode) {
	case ENGINE_READ:
		return do_read(d, p);
	case ENGINE_WRITE:
		return do_write(d, p);
	case ENGINE_FDATASYNC:
		return do_flush(d, p);
	case ENGINE_FALLOCATE:
		return do_fallocate(d, p);
	case ENGINE_TRUNCATE:
		return do_truncate(d, p);
	}
	abort();
}

/* --- crash --- */

/* What a crash makes of the changes that were not durable. */
enum crash_mode {
	CRASH_KILLED,        /* only the process died: all that completed is kept */
	CRASH_NOTHING,
	CRASH_SOME,          /* each change kept, lost or torn */
	CRASH_SECTORS,       /* each sector kept or lost */
	CRASH_PREFIX,        /* in order up to one of them */
	CRASH_ALL_BUT_ONE,
	CRASH_ONE,
	CRASH_MODES,
};

/* How the next durable_apply() decides; kept here because one crash has one. */
struct crash {
	enum crash_mode mode;
	unsigned keep;       /* percent */
	size_t chosen;
	bool whole, torn;    /* the change at work: kept; by sectors */
};

static _Thread_local struct crash crash;

static bool survives_crash(struct sim_disk *d, const struct change *c, uint64_t sector)
{
	if (crash.mode == CRASH_SECTORS)
		return below(d, 100) < crash.keep;
	if (crash.torn)
		return below(d, 2);
	return crash.whole;
}

static void decide(struct sim_disk *d, size_t i, size_t nr_done)
{
	crash.torn = false;
	switch (crash.mode) {
	case CRASH_KILLED:
		crash.whole = i < nr_done || below(d, 2);
		crash.torn = i >= nr_done && below(d, 2);
		break;
	case CRASH_PREFIX:
		crash.whole = i < crash.chosen;
		crash.torn = i == crash.chosen;
		break;
	case CRASH_ALL_BUT_ONE:
		crash.whole = i != crash.chosen;
		break;
	case CRASH_ONE:
		crash.whole = i == crash.chosen;
		break;
	case CRASH_SOME:
		crash.whole = below(d, 100) < crash.keep;
		crash.torn = crash.whole && !below(d, 4);
		break;
	default:
		crash.whole = false;
		break;
	}
}

/* What is pending may have got anywhere. */
static void journal_pending(struct sim_disk *d)
{
	struct change c;

	for (unsigned i = 0; i < d->nr_pending; i++) {
		const struct pending *p = &d->pending[i];
		const struct engine_req *rq = &p->rq;
		size_t len;

		switch (rq->opcode) {
		case ENGINE_WRITE:
			len = iov_total(rq->iov, rq->nr_iov);
			if (!len || rq->off + len > FILE_CAP)
				continue;
			change_bytes(d, p->f, &c, rq->off, len, rq->iov, rq->nr_iov, 0);
			break;
		case ENGINE_FALLOCATE:
			if (rq->off + rq->len > FILE_CAP)
				continue;
			change_fallocate(d, p->f, &c, rq);
			break;
		case ENGINE_TRUNCATE:
			change_truncate(d, p->f, &c, rq->len);
			break;
		default:
			continue;
		}
		journal_add(d, &c);
	}
}

/* Shows a range of the durable copy in the real file; whole blocks of zeros as holes. */
static void restore(struct sim_file *f, uint64_t off, uint64_t end)
{
	if (end > f->dsize)
		end = f->dsize;
	while (off < end) {
		uint64_t next = (off | 4095) + 1;

		if (next > end)
			next = end;
		if (next - off == 4096 && buf_is_zero(f->durable + off, 4096))
			zero_real(f, off, 4096);
		else
			write_real(f, off, f->durable + off, next - off);
		off = next;
	}
}

static void restore_all(struct sim_disk *d)
{
	struct sim_file *f;

	for (f = d->files; f; f = f->next) {
		if (!f->loaded)
			continue;
		must(ftruncate(f->fd, f->dsize) == 0, "truncate a file");
	}
	for (size_t i = 0; i < d->nr_changes; i++) {
		const struct change *c = &d->journal[i];

		restore(c->f, c->off, c->truncate ? c->f->dsize : c->off + c->len);
	}
}

void sim_disk_crash(struct sim_disk *d)
{
	size_t nr_done = d->nr_changes;

	journal_pending(d);
	crash = (struct crash){ .mode = below(d, CRASH_MODES), .keep = 10 + 40 * below(d, 3) };
	if (d->nr_changes)
		crash.chosen = below(d, d->nr_changes);
	/* the end of a file may have been moved before its bytes came */
	for (struct sim_file *f = d->files; f; f = f->next) {
		uint64_t size = f->loaded ? real_size(f) : 0;

		if (f->loaded && f->dsize < size && !below(d, 4))
			f->dsize = size;
	}
	for (size_t i = 0; i < d->nr_changes; i++) {
		decide(d, i, nr_done);
		durable_apply(d, &d->journal[i], survives_crash);
	}
	restore_all(d);
}

static void crash_now(struct sim_disk *d)
{
	sim_disk_crash(d);
	d->o.crashed(d->o.arg);
	log_error("a crashed simulation went on");
	abort();
}

/* --- the engine --- */

static int sim_init(struct reactor *r, const struct reactor_config *cfg, struct error *e)
{
	struct sim_disk *d = cfg->sim;

	assert(d && !d->pending);
	d->pending = calloc(r->depth, sizeof(*d->pending));
	if (!d->pending)
		return error_set(e, ENOMEM, "cannot set up the simulated disk: out of memory");
	r->engine_state = d;
	return 0;
}

static void sim_fini(struct reactor *r)
{
	struct sim_disk *d = disk_of(r);
	struct sim_file *f;

	assert(!d->nr_pending);
	while ((f = d->files)) {
		assert(!f->refs);
		d->files = f->next;
		close(f->fd);
		if (f->loaded) {
			munmap(f->durable, FILE_CAP);
			munmap(f->dseq, FILE_CAP / SECTOR * sizeof(*f->dseq));
		}
		free(f);
	}
	for (size_t i = 0; i < d->nr_changes; i++)
		free(d->journal[i].data);
	d->nr_changes = 0;
	free(d->pending);
	d->pending = NULL;
	r->engine_state = NULL;
}

static bool sim_submit(struct reactor *r, const struct engine_req *rq)
{
	struct sim_disk *d = disk_of(r);
	struct pending *p = &d->pending[d->nr_pending];

	if (d->nr_pending == r->depth || chance(d, d->faults.again)) {
		d->refused = true;
		return false;
	}
	assert(rq->fd >= 0 && rq->fd < MAX_FDS && d->by_fd[rq->fd]);
	*p = (struct pending){ .rq = *rq, .f = d->by_fd[rq->fd], .not_before = d->steps };
	if (!below(d, d->lazy))
		p->not_before += below(d, DELAY_MAX);
	if (rq->opcode == ENGINE_FDATASYNC)
		p->flush_seq = d->seq;
	d->nr_pending++;
	return true;
}

/* One that may come now; else the one that may come first. */
static unsigned pick(struct sim_disk *d)
{
	unsigned start = (unsigned)below(d, d->nr_pending), best = start;

	for (unsigned i = 0; i < d->nr_pending; i++) {
		unsigned k = (start + i) % d->nr_pending;

		if (d->pending[k].not_before <= d->steps)
			return k;
		if (d->pending[k].not_before < d->pending[best].not_before)
			best = k;
	}
	return best;
}

static void complete_one(struct sim_disk *d)
{
	unsigned k = pick(d);
	struct pending p = d->pending[k];
	int res;

	d->steps++;
	if (d->steps == d->o.crash_at)
		crash_now(d);
	d->clock_ns += 1000 + below(d, 100000);
	d->pending[k] = d->pending[--d->nr_pending];
	res = carry_out(d, &p);
	p.rq.hook->fn(p.rq.hook, res, 0);
}

static void sim_turn(struct reactor *r, int64_t timeout_ns)
{
	struct sim_disk *d = disk_of(r);
	unsigned budget = 1 + (unsigned)below(d, TURN_MAX);

	if (!list_empty(&r->watches))
		reactor_poll_dispatch(r);
	if (!d->nr_pending && timeout_ns > 0)
		d->clock_ns += (uint64_t)timeout_ns;
	else if (!d->nr_pending && timeout_ns < 0 && !d->refused && list_empty(&r->watches))
		d->o.stuck(d->o.arg);
	d->refused = false;
	while (d->nr_pending && budget--)
		complete_one(d);
}

static uint64_t sim_now(struct reactor *r)
{
	return disk_of(r)->clock_ns;
}

const struct engine engine_sim = {
	.kind = ENGINE_SIM,
	.name = "sim",
	.init = sim_init,
	.fini = sim_fini,
	.submit = sim_submit,
	.turn = sim_turn,
	.open = sim_open,
	.reopen = sim_reopen,
	.close = sim_close,
	.truncate = sim_truncate,
	.seek = sim_seek,
	.now = sim_now,
	.no_threads = true,
};
