/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qchaind_def.h - the daemon's command line, known to qchaind itself and to what makes its man page. */
#ifndef QCHAIN_TOOLS_QCHAIND_DEF_H
#define QCHAIN_TOOLS_QCHAIND_DEF_H

#include "tools/options.h"

enum qchaind_opt {
	QCHAIND_NAME, QCHAIND_IMAGE, QCHAIND_FORMAT, QCHAIND_BACKING_FORMAT, QCHAIND_DEVICE,
	QCHAIND_NUMBER, QCHAIND_QMP, QCHAIND_ENGINE, QCHAIND_CACHE, QCHAIND_MAP_CACHE,
	QCHAIND_READ_ONLY, QCHAIND_FORCE_SHARE, QCHAIND_NO_DM, QCHAIND_FOREGROUND, QCHAIND_DEBUG,
};

extern const struct command_def qchaind_def;

#endif
