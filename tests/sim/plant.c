// SPDX-License-Identifier: GPL-2.0-or-later
/* plant.c - the switch of the bugs that qcow/plant.h lists. */
#include "qcow/plant.h"

#include <errno.h>
#include <string.h>

enum qcow_plant qcow_plant = PLANT_NOTHING;

int qcow_plant_parse(const char *name)
{
	static const char *const names[] = {
		[PLANT_SKIP_BARRIER] = "skip_barrier",
		[PLANT_FREE_BEFORE_UNLINK] = "free_before_unlink",
		[PLANT_LINK_BEFORE_COPY] = "link_before_copy",
	};

	for (unsigned i = 1; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(name, names[i])) {
			qcow_plant = i;
			return 0;
		}
	}
	return -EINVAL;
}
