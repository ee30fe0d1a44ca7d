/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * applet.h - every command is a function of the one program `qchain`, found by the
 * name it is called by (link) or by its first argument.
 *
 * Exit status: 0 done, 1 failed, 2 bad usage (qcimg check and compare: as qemu-img).
 */
#ifndef QCHAIN_TOOLS_APPLET_H
#define QCHAIN_TOOLS_APPLET_H

#define EXIT_DONE 0
#define EXIT_FAILED 1
#define EXIT_USAGE 2

/* argv[0] is the applet's name ("qccreate"). Returns the exit status. */
typedef int applet_fn(int argc, char **argv);

int qcimg_main(int argc, char **argv);    /* qcimg.c */

#endif
