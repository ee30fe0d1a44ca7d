// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * watch.c - the slow sources: descriptors in the epoll set, and what is built on
 * them: signals (signalfd) and children (pidfd).
 *
 * Invariant: an unwatched io_watch is never called again, not even by the batch
 * of events that is being dispatched.
 */
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/log.h"
#include "io/reactor_priv.h"

int reactor_watch(struct reactor *r, struct io_watch *w)
{
	struct epoll_event ev = { .events = w->events, .data.ptr = w };

	if (epoll_ctl(r->epfd, w->armed ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, w->fd, &ev) < 0)
		return -errno;
	if (!w->armed) {
		w->armed = true;
		list_add_tail(&r->watches, &w->link);
	}
	return 0;
}

void reactor_unwatch(struct reactor *r, struct io_watch *w)
{
	if (!w->armed)
		return;
	w->armed = false;
	list_del(&w->link);
	/* fails when the descriptor is closed already: then epoll has dropped it */
	epoll_ctl(r->epfd, EPOLL_CTL_DEL, w->fd, NULL);
	for (int i = 0; i < r->batch_len; i++)
		if (r->batch[i].data.ptr == w)
			r->batch[i].data.ptr = NULL;
}

void reactor_dispatch_events(struct reactor *r, struct epoll_event *ev, int n)
{
	assert(!r->batch);
	r->batch = ev;
	r->batch_len = n;
	for (int i = 0; i < n; i++) {
		struct io_watch *w = ev[i].data.ptr;

		if (w)
			w->fn(w, ev[i].events);
	}
	r->batch = NULL;
	r->batch_len = 0;
}

void reactor_poll_dispatch(struct reactor *r)
{
	struct epoll_event ev[EPOLL_BATCH];
	int n = epoll_wait(r->epfd, ev, EPOLL_BATCH, 0);

	if (n > 0)
		reactor_dispatch_events(r, ev, n);
	else
		assert(n == 0 || errno == EINTR);
}

/* --- signals --- */

static void signal_mask(struct reactor *r, sigset_t *set)
{
	struct io_signal *s;

	sigemptyset(set);
	list_for_each(s, &r->signals, link)
		sigaddset(set, s->signo);
}

static void signal_ready(struct io_watch *w, uint32_t revents)
{
	struct reactor *r = w->arg;
	struct signalfd_siginfo si;
	struct io_signal *s, *tmp;

	/* one at a time, so that a handler that removes itself or others is safe: level triggered */
	if (read(r->sigfd, &si, sizeof(si)) != sizeof(si))
		return;
	list_for_each_safe(s, tmp, &r->signals, link) {
		if ((uint32_t)s->signo == si.ssi_signo) {
			s->fn(s);
			return;
		}
	}
}

static int signalfd_update(struct reactor *r)
{
	sigset_t set;
	int fd;

	signal_mask(r, &set);
	fd = signalfd(r->sigfd, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	if (r->sigfd >= 0)
		return 0;
	r->sigfd = fd;
	r->sig_watch = (struct io_watch){
		.fd = fd, .events = EPOLLIN, .fn = signal_ready, .arg = r };
	return reactor_watch(r, &r->sig_watch);
}

int reactor_signal_add(struct reactor *r, struct io_signal *s)
{
	sigset_t one, old;
	struct io_signal *it;
	int rc;

	assert(s->signo > 0 && s->signo < (int)sizeof(r->sig_blocked));
	list_for_each(it, &r->signals, link)
		if (it->signo == s->signo)
			return -EBUSY;
	sigemptyset(&one);
	sigaddset(&one, s->signo);
	if (pthread_sigmask(SIG_BLOCK, &one, &old))
		return -EINVAL;
	r->sig_blocked[s->signo] = !sigismember(&old, s->signo);
	list_add_tail(&r->signals, &s->link);
	rc = signalfd_update(r);
	if (rc < 0)
		reactor_signal_del(r, s);
	return rc;
}

void reactor_signal_del(struct reactor *r, struct io_signal *s)
{
	sigset_t one;

	list_del(&s->link);
	if (r->sigfd >= 0 && list_empty(&r->signals)) {
		reactor_unwatch(r, &r->sig_watch);
		close(r->sigfd);
		r->sigfd = -1;
	} else if (r->sigfd >= 0) {
		signalfd_update(r);
	}
	if (r->sig_blocked[s->signo]) {
		r->sig_blocked[s->signo] = 0;
		sigemptyset(&one);
		sigaddset(&one, s->signo);
		pthread_sigmask(SIG_UNBLOCK, &one, NULL);
	}
}

/* --- children --- */

static void child_ready(struct io_watch *w, uint32_t revents)
{
	struct io_child *c = container_of(w, struct io_child, watch);
	struct reactor *r = w->arg;
	int status = 0;
	pid_t pid = waitpid(c->pid, &status, WNOHANG);

	if (pid == 0)
		return;
	/* somebody else reaped it: all we can say is that it is gone */
	if (pid < 0)
		log_warn("child %d was reaped elsewhere: %m", (int)c->pid);
	reactor_unwatch(r, w);
	close(c->pidfd);
	c->pidfd = -1;
	c->fn(c, status);
}

int reactor_child_add(struct reactor *r, struct io_child *c)
{
	int rc;

	c->pidfd = syscall(SYS_pidfd_open, c->pid, 0);
	if (c->pidfd < 0)
		return -errno;
	c->watch = (struct io_watch){
		.fd = c->pidfd, .events = EPOLLIN, .fn = child_ready, .arg = r };
	rc = reactor_watch(r, &c->watch);
	if (rc < 0) {
		close(c->pidfd);
		c->pidfd = -1;
	}
	return rc;
}

struct child_wait {
	struct io_child child;
	struct co *co;
	int wstatus;
};

static void child_wait_done(struct io_child *c, int wstatus)
{
	struct child_wait *cw = container_of(c, struct child_wait, child);

	cw->wstatus = wstatus;
	co_wake(cw->co);
}

int co_child_wait(struct reactor *r, pid_t pid, int *wstatus)
{
	struct child_wait cw = { .child = { .pid = pid, .fn = child_wait_done }, .co = co_self() };
	int rc;

	assert(cw.co);
	rc = reactor_child_add(r, &cw.child);
	if (rc < 0)
		return rc;
	co_yield();
	if (wstatus)
		*wstatus = cw.wstatus;
	return 0;
}
