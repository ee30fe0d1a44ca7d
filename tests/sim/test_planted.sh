#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The simulator must find each of the bugs that can be planted, within a minute.
set -euo pipefail
here=$(dirname "$0")
for bug in skip_barrier free_before_unlink link_before_copy; do
	status=0
	echo "planted: $bug"
	"$here"/run --seed 1 --seeds 1000000 --minutes 1 --plant "$bug" || status=$?
	if [ "$status" != 1 ]; then
		echo "the simulator did not find the planted bug $bug" >&2
		exit 1
	fi
done
