//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Keeps the time for the other programs. User space runs start_clock once; the
 * timer then lives as long as its map, which is pinned.
 */
#include "maps.h"

#define CLOCK_MONOTONIC 1

static int tick(void *map, __u32 *key, struct clock *clock)
{
	clock->now = bpf_ktime_get_coarse_ns();
	bpf_timer_start(&clock->timer, CLOCK_TICK, 0);
	return 0;
}

/* Never attached: a test run carries it into the kernel. Returns 0, or an error. */
SEC("xdp")
int start_clock(struct xdp_md *ctx)
{
	struct clock *clock_value = this_clock();

	if (!clock_value)
		return 1;
	clock_value->now = bpf_ktime_get_coarse_ns();
	/* Busy: it runs already, for an earlier daemon; our callback replaces its. */
	bpf_timer_init(&clock_value->timer, &clock, CLOCK_MONOTONIC);
	if (bpf_timer_set_callback(&clock_value->timer, tick))
		return 1;
	return bpf_timer_start(&clock_value->timer, CLOCK_TICK, 0) != 0;
}
