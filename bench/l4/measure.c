//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a packet costs. A test run repeats a program on one buffer, which keeps
 * what the program did to it, and on one flow. So measure gives each round the
 * next flow, runs the real program, and puts the frame back as it was; idle
 * does all of that but run the program. The difference is the packet's cost.
 * compare does it with the yardstick. Live frames go out through a veth instead.
 */
#include "../../bpf/datapath.c"
#include "yardstick.h"

#define HEAD 80	/* bytes of a frame that the program may change */

struct plan {
	__u32 flows;
	__u32 random;
	__s32 grows;	/* what the program adds to the frame, or takes away */
	__u32 source;	/* where in the frame the flow's number goes: 4 bytes of the client's address */
	__u64 head[HEAD / 8];
};

MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct plan, 1, 0) plan SEC(".maps");

#define CLIENTS 0x0a400000	/* 10.64.0.0: the first client's address */

/* Writes the number of the next flow into the client's address. */
INLINE void next_flow(struct xdp_md *ctx, struct plan *plan)
{
	struct cursor c = frame_of(ctx);
	__u64 source = plan->source;
	__be32 *address;

	plan->random = plan->random * 1664525 + 1013904223;
	skip(&c, source, 0x7f);
	address = take(&c, sizeof(*address));
	if (address)
		*address = be32(CLIENTS + (__u32)(((__u64)plan->random * plan->flows) >> 32));
}

INLINE void write_head(struct xdp_md *ctx, const struct plan *plan)
{
	struct cursor c = frame_of(ctx);
	__u64 *head = take(&c, HEAD);

	if (!head)
		return;
	for (int i = 0; i < HEAD / 8; i++)
		head[i] = plan->head[i];
}

/* Takes back what the program did. */
INLINE void put_back(struct xdp_md *ctx, struct plan *plan)
{
	if (plan->grows)
		bpf_xdp_adjust_head(ctx, plan->grows);
	write_head(ctx, plan);
}

INLINE struct plan *this_plan(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&plan, &zero);
}

SEC("xdp.frags")
int measure(struct xdp_md *ctx)
{
	struct plan *plan = this_plan();
	int verdict;

	if (!plan)
		return XDP_ABORTED;
	next_flow(ctx, plan);
	verdict = steer_packet(ctx);
	put_back(ctx, plan);
	return verdict;
}

SEC("xdp.frags")
int compare(struct xdp_md *ctx)
{
	struct plan *plan = this_plan();
	int verdict;

	if (!plan)
		return XDP_ABORTED;
	next_flow(ctx, plan);
	verdict = yardstick(ctx);
	put_back(ctx, plan);
	return verdict;
}

SEC("xdp.frags")
int idle(struct xdp_md *ctx)
{
	struct plan *plan = this_plan();

	if (!plan)
		return XDP_ABORTED;
	next_flow(ctx, plan);
	if (plan->grows)
		bpf_xdp_adjust_head(ctx, -plan->grows);
	put_back(ctx, plan);
	return XDP_PASS;
}

/* The cost of one change of the frame's length, which idle should not have. */
SEC("xdp.frags")
int stretch(struct xdp_md *ctx)
{
	bpf_xdp_adjust_head(ctx, -40);
	bpf_xdp_adjust_head(ctx, 40);
	return XDP_PASS;
}

SEC("xdp.frags")
int empty(struct xdp_md *ctx)
{
	return XDP_PASS;
}

/*
 * Live frames come back as they were left, from where they were sent to. Each
 * gets its head anew and the next flow. What the stack would get is dropped.
 */
MAP_DEFINITION(BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, 2, 0) frames SEC(".maps");

enum { MADE, ARRIVED };

INLINE void count_frame(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&frames, &which);

	if (n)
		(*n)++;
}

INLINE int make_frame(struct xdp_md *ctx)
{
	struct plan *plan = this_plan();

	if (!plan)
		return 0;
	write_head(ctx, plan);
	next_flow(ctx, plan);
	count_frame(MADE);
	return 1;
}

SEC("xdp")
int live_drop(struct xdp_md *ctx)
{
	return make_frame(ctx) ? XDP_DROP : XDP_ABORTED;
}

SEC("xdp")
int live_bounce(struct xdp_md *ctx)
{
	return make_frame(ctx) ? XDP_TX : XDP_ABORTED;
}

SEC("xdp")
int live_steer(struct xdp_md *ctx)
{
	int verdict = make_frame(ctx) ? steer_packet(ctx) : XDP_ABORTED;

	return verdict == XDP_PASS ? XDP_DROP : verdict;
}

SEC("xdp")
int live_yardstick(struct xdp_md *ctx)
{
	return make_frame(ctx) ? yardstick(ctx) : XDP_ABORTED;
}

/* Where live frames arrive. */
SEC("xdp")
int sink(struct xdp_md *ctx)
{
	count_frame(ARRIVED);
	return XDP_DROP;
}
