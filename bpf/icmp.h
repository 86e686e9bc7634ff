/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A packet that does not fit with what would go round it: its sender is told,
 * in the name of the address it was for, how long packets may be.
 */
#pragma once

#include "encap.h"

#define TOLD 250	/* answers per CPU and tick of the clock */
#define QUOTED4 64	/* bytes of the packet: the longest IPv4 header and ports */
#define QUOTED6 128
#define LEAST_MTU4 576	/* less is not believed of a way */
#define LEAST_MTU6 1280

/* How many were told in a tick. */
struct told {
	__u64 tick, count;
};

MAP_DEFINITION(BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct told, 1, 0) told SEC(".maps");

INLINE int may_tell(void)
{
	const struct clock *clock = this_clock();
	__u32 zero = 0;
	struct told *t = bpf_map_lookup_elem(&told, &zero);

	if (!t || !clock)
		return 0;
	if (t->tick != clock->now) {
		t->tick = clock->now;
		t->count = 0;
	}
	return t->count++ < TOLD;
}

struct too_big {
	__u8 type, code;
	__be16 checksum;
	__be32 mtu;		/* IPv4: the lower half */
};

struct answer4 {
	struct iphdr ip;
	struct too_big icmp;
	__u8 quoted[QUOTED4];
};

struct answer6 {
	struct ipv6hdr ip;
	struct too_big icmp;
	__u8 quoted[QUOTED6];
};

INLINE __u16 fold(__u32 sum)
{
	sum = halves(sum);
	return ~halves(sum);
}

INLINE __u32 sum_of(const struct address *a)
{
	return halves(a->word[0]) + halves(a->word[1]) + halves(a->word[2]) + halves(a->word[3]);
}

INLINE int write_answer4(struct cursor *c, __u32 mtu)
{
	struct answer4 *a = take(c, sizeof(*a));
	struct iphdr *packet;
	__be32 *word = (void *)a;

	if (!a)
		return 0;
	packet = (void *)a->quoted;
	word[0] = be32(0x45c00000 | sizeof(*a));
	word[1] = be32(0x00004000);
	word[2] = be32(OUTER_TTL << 24 | IPPROTO_ICMP << 16);
	word[3] = packet->daddr;
	word[4] = packet->saddr;
	a->ip.check = fold(halves(word[0]) + halves(word[1]) + halves(word[2]) + halves(word[3]) +
			   halves(word[4]));
	a->icmp = (struct too_big){ .type = 3, .code = 4, .mtu = be32(mtu) };
	a->icmp.checksum = fold(halves(bpf_csum_diff(NULL, 0, &a->icmp, sizeof(a->icmp) + QUOTED4, 0)));
	return 1;
}

INLINE int write_answer6(struct cursor *c, __u32 mtu)
{
	struct answer6 *a = take(c, sizeof(*a));
	const __u32 size = sizeof(a->icmp) + QUOTED6;
	struct ipv6hdr *packet;
	__be32 *word = (void *)a;
	__u32 sum;

	if (!a)
		return 0;
	packet = (void *)a->quoted;
	word[0] = be32(0x60000000);
	word[1] = be32(size << 16 | IPPROTO_ICMPV6 << 8 | OUTER_TTL);
	*(struct address *)&a->ip.saddr = *(struct address *)&packet->daddr;
	*(struct address *)&a->ip.daddr = *(struct address *)&packet->saddr;
	a->icmp = (struct too_big){ .type = 2, .mtu = be32(mtu) };
	sum = halves(bpf_csum_diff(NULL, 0, &a->icmp, size, 0));
	sum += sum_of((struct address *)&a->ip.saddr) + sum_of((struct address *)&a->ip.daddr) +
	       be16(size) + be16(IPPROTO_ICMPV6);
	a->icmp.checksum = fold(sum);
	return 1;
}

/* Turns the frame into an answer with this MTU and sends it back. */
__attribute__((noinline)) int tell_too_big(struct xdp_md *ctx, struct flow *f, __u32 mtu)
{
	__u32 quoted, size;
	struct vlan_header *from, *to;
	struct cursor c;
	__u64 l3;
	__be16 *type;

	if (!f)
		return XDP_DROP;
	quoted = f->version == 4 ? QUOTED4 : QUOTED6;
	size = (f->version == 4 ? sizeof(struct answer4) : sizeof(struct answer6)) - quoted;
	l3 = f->l3 & 0x1f;
	if (bpf_xdp_get_buff_len(ctx) < l3 + f->length)
		return leave(REASON_SHORT);	/* it says that it is longer than it is */
	if (mtu < (f->version == 4 ? LEAST_MTU4 : LEAST_MTU6) ||
	    f->kind == KIND_ERROR ||	/* nobody is told of what tells (RFC 1122, 3.2.2) */
	    f->length < quoted || !may_tell())
		return leave(REASON_TOO_BIG);
	if (bpf_xdp_adjust_tail(ctx, (int)(l3 + quoted) - (int)bpf_xdp_get_buff_len(ctx)) ||
	    bpf_xdp_adjust_head(ctx, -(int)size))
		return leave(REASON_HEADROOM);

	c = frame_of(ctx);
	to = take(&c, sizeof(*to));
	c = frame_of(ctx);
	skip(&c, size, 0x3f);
	from = take(&c, sizeof(*from));
	if (!to || !from)
		return leave(REASON_HEADROOM);
	to->tag[0] = from->tag[0];
	to->tag[1] = from->tag[1];
	to->macs.word[0] = from->macs.word[1] >> 16 | from->macs.word[2] << 16;
	to->macs.word[1] = from->macs.word[2] >> 16 | from->macs.word[0] << 16;
	to->macs.word[2] = from->macs.word[0] >> 16 | from->macs.word[1] << 16;

	c = frame_of(ctx);
	skip(&c, l3 - sizeof(*type), 0x1f);
	type = take(&c, sizeof(*type));
	if (!type)
		return leave(REASON_HEADROOM);
	*type = f->version == 4 ? be16(ETH_P_IP) : be16(ETH_P_IPV6);
	if (!(f->version == 4 ? write_answer4(&c, mtu) : write_answer6(&c, mtu)))
		return leave(REASON_HEADROOM);
	return sent(bpf_redirect(ctx->ingress_ifindex, 0), REASON_TOLD_TOO_BIG);
}
