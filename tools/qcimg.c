// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcimg.c - qemu-img's offline work on images, on our engine: the table of
 * subcommands. Each lives in a file of its own, img_NAME.c.
 */
#include <stdio.h>
#include <string.h>

#include "tools/applet.h"
#include "tools/img_common.h"

#define SRC_HELP \
	"  -f, --format FMT     raw or qcow2; else found from the first bytes\n" \
	"  --image-opts         FILE is a list of driver options (driver=qcow2,file.filename=x)\n" \
	"  -U, --force-share    read an image that another process writes\n"

static const struct img_cmd cmds[] = {
	{ "bench", img_bench, "Time reads or writes of an image",
	  "[-c COUNT] [-d DEPTH] [-f FMT] [--flush-interval=N] [-i AIO] [-n] [--no-drain]\n"
	  "       [-o OFFSET] [--pattern=BYTE] [-q] [-s SIZE] [-S STEP] [-t CACHE] [-w] [-U] FILE\n\n"
	  "  -c, --count N        requests to send (75000)\n"
	  "  -d, --depth N        requests in flight (64)\n"
	  "  -s, --buffer-size N  bytes in a request (4k)\n"
	  "  -S, --step-size N    distance between requests (buffer size)\n"
	  "  -o, --offset N       where to begin\n"
	  "  -w, --write          write, with the byte of --pattern\n"
	  "  --flush-interval N   flush after every N writes; --no-drain: without waiting for them\n"
	  "  -t, --cache MODE     none, directsync, writeback, writethrough, unsafe\n"
	  "  -i, --aio MODE       threads, native (libaio; also -n), io_uring\n" SRC_HELP },
	{ "check", img_check, "Check an image for errors, and repair it",
	  "[-q] [-f FMT | --image-opts] [--output human|json] [-r leaks|all] [-T CACHE] [-U] FILE\n\n"
	  "  -r, --repair WHAT    give leaked clusters back (leaks), or repair all that is wrong (all)\n"
	  "  --output human|json\n" SRC_HELP
	  "\nExit status: 0 sound, 1 the check failed, 2 corrupt, 3 leaks only, 63 not a format that can be checked" },
	{ "compare", img_compare, "Compare the contents of two images",
	  "[-f FMT] [-F FMT] [--image-opts] [-T CACHE] [-p] [-q] [-s] [-U] FILE1 FILE2\n\n"
	  "  -F, --b-format FMT   format of FILE2\n"
	  "  -s, --strict         differ too in size and in what is allocated\n"
	  "  -p, --progress\n" SRC_HELP
	  "\nExit status: 0 same, 1 different, 2 or more an error" },
	{ "convert", img_convert, "Copy images into a new one",
	  "[-f FMT] [-O FMT] [-o OPTIONS] [-B BACKING -F FMT] [-c] [-p] [-q] [-n] [-S SIZE]\n"
	  "       [-m N] [-W] [-C] [-r RATE] [-t CACHE] [-T CACHE] [--target-is-zero] [--salvage]\n"
	  "       [--image-opts] [--target-image-opts] [-U] FILE... TARGET\n\n"
	  "  -O, --target-format  raw (default) or qcow2\n"
	  "  -o, --options LIST   as 'qcimg create -o'\n"
	  "  -B, --backing FILE   make TARGET an overlay of FILE, and copy only the top layer of the source\n"
	  "  -c, --compress       compress (qcow2)\n"
	  "  -n, --no-create      TARGET exists\n"
	  "  -S, --sparse-size N  shortest run of zeros that becomes a hole (4k); 0: write everything\n"
	  "  -m, --parallel N     pieces in flight, 1 to 16 (8)\n"
	  "  -W, --oob            write out of order\n"
	  "  -C, --copy-range-offloading  let the file system copy\n"
	  "  -r, --rate-limit N   bytes a second\n" SRC_HELP },
	{ "create", img_create, "Create an image",
	  "[-q] [-f FMT] [-b BACKING -F FMT] [-u] [-o OPTIONS] FILE [SIZE]\n\n"
	  "  -f, --format FMT     raw (default) or qcow2\n"
	  "  -o, --options LIST   name=value,...; '-o help' lists them\n"
	  "  -b, --backing FILE   make an overlay of FILE, of format -F\n"
	  "  -u, --backing-unsafe do not open the backing file\n\n"
	  "An existing file is replaced, unless it is in use." },
	{ "info", img_info, "Say what an image is",
	  "[-f FMT | --image-opts] [--output human|json] [--backing-chain] [-U] FILE\n\n"
	  "  --backing-chain      and every image below it\n" SRC_HELP },
	{ "map", img_map, "Say where the bytes of an image are",
	  "[-f FMT | --image-opts] [--start-offset N] [--max-length N] [--output human|json] [-U] FILE\n\n"
	  "  -s, --start-offset N, -l, --max-length N   the part to show\n" SRC_HELP },
	{ "rebase", img_rebase, "Change the backing file named by an image",
	  "-u [-q] [-f FMT] -b BACKING [-F FMT] FILE\n\n"
	  "  -u, --backing-unsafe change the name only: the guest's data must be the same over BACKING\n"
	  "  -b, --backing FILE   the new backing file; '' for none\n"
	  "  -F, --backing-format FMT" },
};

#define NR_CMDS (sizeof(cmds) / sizeof(cmds[0]))

static int help(void)
{
	printf("Works on disk images offline, with the options and output of qemu-img.\n"
	       "Usage: qcimg COMMAND [OPTIONS]\n\nCommands:\n");
	for (unsigned i = 0; i < NR_CMDS; i++)
		printf("  %-10s %s\n", cmds[i].name, cmds[i].summary);
	printf("\nOptions:\n  -h, --help     this text; qcimg COMMAND --help for a command's options\n"
	       "  -V, --version  the version\n\nSupported formats: qcow2 raw\n");
	return EXIT_DONE;
}

static int unknown(const char *name)
{
	static const char *const later[] = { "amend", "bitmap", "commit", "dd", "measure", "resize",
					     "snapshot" };

	for (unsigned i = 0; i < sizeof(later) / sizeof(later[0]); i++)
		if (!strcmp(name, later[i]))
			return img_fail("The command '%s' of qemu-img is not supported by qcimg %s; see 'qcimg --help'",
					name, QCHAIN_VERSION);
	if (*name == '-')
		return img_fail("unrecognized option '%s'; see 'qcimg --help'", name);
	return img_fail("Command not found: %s; see 'qcimg --help'", name);
}

int qcimg_main(int argc, char **argv)
{
	if (argc < 2)
		return img_fail("Not enough arguments; see 'qcimg --help'");
	if (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help"))
		return help();
	if (!strcmp(argv[1], "-V") || !strcmp(argv[1], "--version")) {
		printf("qcimg version %s (qchain)\n", QCHAIN_VERSION);
		return EXIT_DONE;
	}
	for (unsigned i = 0; i < NR_CMDS; i++)
		if (!strcmp(argv[1], cmds[i].name))
			return cmds[i].run(&cmds[i], argc - 1, argv + 1);
	return unknown(argv[1]);
}
