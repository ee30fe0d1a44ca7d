/* SPDX-License-Identifier: GPL-2.0-or-later */
/* list.h - intrusive doubly linked circular list; a node out of any list points at itself. */
#ifndef QCHAIN_IO_LIST_H
#define QCHAIN_IO_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *prev, *next;
};

#define LIST_INIT(l) { &(l), &(l) }

#ifndef container_of
#define container_of(ptr, type, member) \
	((type *)((char *)(ptr) - offsetof(type, member)))
#endif

static inline void list_init(struct list *l)
{
	l->prev = l->next = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

static inline void list_insert_(struct list *n, struct list *prev, struct list *next)
{
	n->prev = prev;
	n->next = next;
	prev->next = n;
	next->prev = n;
}

static inline void list_add(struct list *head, struct list *n)
{
	list_insert_(n, head, head->next);
}

static inline void list_add_tail(struct list *head, struct list *n)
{
	list_insert_(n, head->prev, head);
}

/* Takes n out of its list and leaves it pointing at itself, so a second call is harmless. */
static inline void list_del(struct list *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	list_init(n);
}

/* Moves every node of from to the tail of to. */
static inline void list_splice_tail(struct list *to, struct list *from)
{
	if (list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define list_entry(node, type, member) container_of(node, type, member)
#define list_first(head, type, member) list_entry((head)->next, type, member)
#define list_for_each(it, head, member)                                           \
	for (it = list_entry((head)->next, __typeof__(*it), member);              \
	     &it->member != (head);                                               \
	     it = list_entry(it->member.next, __typeof__(*it), member))
#define list_for_each_safe(it, tmp, head, member)                                 \
	for (it = list_entry((head)->next, __typeof__(*it), member),              \
	    tmp = list_entry(it->member.next, __typeof__(*it), member);           \
	     &it->member != (head);                                               \
	     it = tmp, tmp = list_entry(tmp->member.next, __typeof__(*tmp), member))

#endif
