/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qchaind_def.c - the daemon's command line. */
#include "tools/qchaind_def.h"

static const struct option_def opts[] = {
	[QCHAIND_NAME] = { "name", 'n', OPT_CHAIN, false, "NAME", NULL, "the chain's name" },
	[QCHAIND_IMAGE] = { "image", 'i', OPT_FILE, false, "FILE", NULL,
			    "serve this image and what lies below it; without it the definition of NAME says which" },
	[QCHAIND_FORMAT] = { "format", 'f', OPT_CHOICE, false, "FMT", "qcow2|raw",
			     "format of the image; by default what its first bytes say" },
	[QCHAIND_BACKING_FORMAT] = { "backing-format", 0, OPT_CHOICE, false, "FMT", "qcow2|raw",
				     "format of backing files whose overlay does not name it" },
	[QCHAIND_DEVICE] = { "device", 'd', OPT_CHOICE, false, "KIND", "auto|ublk|fuse|none",
			     "how to make the block device" },
	[QCHAIND_NUMBER] = { "number", 'N', OPT_NUMBER, false, "N", NULL,
			     "be /dev/qchainN; fail if that is taken" },
	[QCHAIND_QMP] = { "qmp", 0, OPT_FILE, false, "PATH", NULL,
			  "listen for QMP here too, besides the run directory" },
	[QCHAIND_ENGINE] = { "engine", 0, OPT_CHOICE, false, "ENGINE", "uring|aio", "how to do I/O" },
	[QCHAIND_CACHE] = { "cache", 0, OPT_CHOICE, false, "MODE", "none|writeback",
			    "none: direct I/O; writeback: through the host's page cache" },
	[QCHAIND_MAP_CACHE] = { "map-cache", 0, OPT_SIZE, false, "SIZE", NULL,
				"memory for the chain's map (default 64M)" },
	[QCHAIND_READ_ONLY] = { "read-only", 'r', OPT_FLAG, false, NULL, NULL, "allow no writes" },
	[QCHAIND_FORCE_SHARE] = { "force-share", 'U', OPT_FLAG, false, NULL, NULL,
				  "read images that another process has open for writing; needs --read-only" },
	[QCHAIND_NO_DM] = { "no-dm", 0, OPT_FLAG, false, NULL, NULL,
			    "lay no device-mapper device over it" },
	[QCHAIND_FOREGROUND] = { "foreground", 'F', OPT_FLAG, false, NULL, NULL,
				 "stay in the foreground; log to standard error" },
	[QCHAIND_DEBUG] = { "debug", 0, OPT_FLAG, false, NULL, NULL, "log more" },
};

const struct command_def qchaind_def = {
	.name = "qchaind",
	.summary = "serve one chain of disk images as a block device",
	.about =
		"qchaind opens an image and every image below it, makes the block device /dev/qchainN "
		"(and /dev/qchain/NAME), and serves it until it is told to stop. Without --image it takes "
		"image and options from the definition that qccreate wrote; options given by hand win.\n\n"
		"Without --foreground it goes to the background once the device is there; if that fails it says "
		"why in one line and exits with status 1. Under systemd it reports READY=1.\n\n"
		"It listens for QMP on qmp.sock in the chain's run directory. A second daemon of the same name is refused, and so "
		"is an image that another process has open.\n\n"
		"SIGTERM or SIGINT stop it: requests in flight complete, everything is flushed, device and sockets go. If "
		"the device is in use (mounted, say) it logs that and goes on serving; after a second signal within 10 seconds "
		"it takes the device away all the same, as soon as the kernel lets go of it. SIGHUP is ignored.\n\n"
		"A block device needs root. With --device none any user may run it; set QCHAIN_RUNDIR to a folder of yours.",
	.examples =
		"qchaind --name web --image /srv/web.qcow2\n"
		"qchaind --name web --foreground\n"
		"QCHAIN_RUNDIR=$XDG_RUNTIME_DIR/qchain qchaind --name t --image t.qcow2 --device none",
	.opts = opts,
	.nr_opts = sizeof(opts) / sizeof(opts[0]),
};
