/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * main.c - the program `qchain`: which applet it is called as, by link name or
 * first argument; and the build's way to man pages and completion.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "tools/cmd.h"
#include "tools/docs.h"
#include "tools/qchaind_def.h"

const struct applet applets[] = {
	{ "qccreate", qccreate_main, &qccreate_def },
	{ "qcchange", qcchange_main, &qcchange_def },
	{ "qcremove", qcremove_main, &qcremove_def },
	{ "qcs", qcs_main, &qcs_def },
	{ "qclayers", qclayers_main, &qclayers_def },
	{ "qcdisplay", qcdisplay_main, &qcdisplay_def },
	{ "qctree", qctree_main, &qctree_def },
	{ "qcimg", qcimg_main, &qcimg_doc },
	{ 0 }
};
#define NR_APPLETS (sizeof(applets) / sizeof(applets[0]) - 1)

static int usage(void)
{
	printf("Usage: qchain COMMAND [ARGUMENT]...\n"
	       "qchain: serve chains of disk images as block devices, and change them while in use.\n\n"
	       "Commands, each also a program of its own:\n");
	for (const struct applet *a = applets; a->name; a++)
		printf("  %-10s  %s\n", a->name, a->def->summary);
	printf("\n'COMMAND --help' shows its options. The daemon of a chain is qchaind.\n");
	return EXIT_DONE;
}

static int write_failed(const char *path)
{
	fprintf(stderr, "qchain: cannot write '%s': %s\n", path, strerror(errno));
	return EXIT_FAILED;
}

static int dump_man(const char *dir)
{
	const char *names[NR_APPLETS + 3] = { "qchaind", "qchain" };
	const struct command_def *defs[NR_APPLETS + 2] = { &qchaind_def, &qchain_doc };
	char path[PATH_MAX];

	for (size_t i = 0; i < NR_APPLETS; i++) {
		names[i + 2] = applets[i].name;
		defs[i + 2] = applets[i].def;
	}
	for (size_t i = 0; names[i]; i++) {
		FILE *f;

		snprintf(path, sizeof(path), "%s/%s.8", dir, names[i]);
		f = fopen(path, "we");
		if (!f)
			return write_failed(path);
		docs_man(defs[i], names, f);
		if (fclose(f))
			return write_failed(path);
	}
	return EXIT_DONE;
}

static int dump_completion(const char *path)
{
	const struct command_def *defs[NR_APPLETS + 2] = { &qchaind_def };
	FILE *f = fopen(path, "we");

	for (size_t i = 0; i < NR_APPLETS; i++)
		defs[i + 1] = applets[i].def;
	if (!f)
		return write_failed(path);
	docs_completion(defs, f);
	return fclose(f) ? write_failed(path) : EXIT_DONE;
}

static int run_applet(const char *name, int argc, char **argv)
{
	for (const struct applet *a = applets; a->name; a++) {
		if (!strcmp(a->name, name)) {
			int status = a->fn(argc, argv);

			if ((fflush(stdout) || ferror(stdout)) && status == EXIT_DONE) {
				fprintf(stderr, "%s: cannot write to standard output: %s\n", name,
					strerror(errno));
				return EXIT_FAILED;
			}
			return status;
		}
	}
	return -1;
}

int main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
	int status = run_applet(name, argc, argv);

	if (status >= 0)
		return status;
	if (argc < 2) {
		fprintf(stderr, "qchain: no command given; see 'qchain --help'\n");
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return usage();
	if (!strcmp(argv[1], "--version")) {
		printf("qchain %s\n", QCHAIN_VERSION);
		return EXIT_DONE;
	}
	if (argc == 3 && !strcmp(argv[1], "--dump-man"))
		return dump_man(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "--dump-completion"))
		return dump_completion(argv[2]);
	status = run_applet(argv[1], argc - 1, argv + 1);
	if (status >= 0)
		return status;
	fprintf(stderr, "qchain: unknown command '%s'; see 'qchain --help'\n", argv[1]);
	return EXIT_USAGE;
}
