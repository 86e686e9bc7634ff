/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Rule 6 and the way there: a packet goes into a tunnel to its first owner, or
 * on to the next. Each takes one from its TTL.
 */
#pragma once

#include "encap.h"
#include "icmp.h"

/* Who is asked, in this order: local indexes of peers, 0 from the end on. */
struct owners {
	__u32 first, second, third;
	__u32 asks;	/* PATH_ASKS, or 0 */
};

INLINE int too_big(struct xdp_md *ctx, const struct packet *p, int version, __u16 length, __u32 mtu);
INLINE int write_hop(const struct node *node, struct cursor *c, __u32 index);
INLINE int send(struct xdp_md *ctx, struct node *node, const struct macs *arrived,
		const struct peer *to, __u32 length, __u32 reason);
INLINE int send_by_kernel(struct xdp_md *ctx, struct node *node, struct ethhdr *eth,
			  const struct peer *to, __u32 length, __u32 reason);

/* Puts the packet into a tunnel to the first of the owners. */
INLINE int to_owner(struct xdp_md *ctx, struct node *node, struct packet *p, __u64 hash,
		    const struct owners *to, __u32 reason)
{
	const struct peer *first = bpf_map_lookup_elem(&peers, &to->first);
	__u32 more = !!to->second + !!to->third;
	__u64 size = outer_size(node) + sizeof(struct tunnel) + more * hop_size(node);
	__u32 length = p->length + size;
	struct macs arrived;
	struct tunnel *tunnel;
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	struct cursor c;

	if (!first || !(node->flags & NODE_TUNNELS))
		return leave(REASON_NO_OWNER);
	if (unlikely(length > first->mtu))
		return too_big(ctx, p, ip_version(p), p->length, first->mtu - longest_overhead(node));
	if (!is_whole(ctx, p->l3 + p->length))
		return leave(REASON_SHORT);
	if (!age(p->ip))
		return leave(REASON_HOP_LIMIT);
	arrived = *p->macs;
	if (bpf_xdp_adjust_head(ctx, (int)p->l3 - (int)(sizeof(struct ethhdr) + size)))
		return leave(REASON_HEADROOM);

	c = frame_of(ctx);
	c.at += sizeof(struct ethhdr);
	if (likely(node->outer_ip == sizeof(*ip))) {
		ip = take(&c, sizeof(*ip));
		if (!ip)
			return leave(REASON_HEADROOM);
		write_outer_ip(ip, node->address.word[3], first->address.word[3], length);
	} else {
		ip6 = take(&c, sizeof(*ip6));
		if (!ip6)
			return leave(REASON_HEADROOM);
		write_outer_ip6(ip6, &node->address, &first->address, length);
	}
	c = frame_of(ctx);
	skip(&c, sizeof(struct ethhdr) + outer_size(node), 0x7f);
	tunnel = take(&c, sizeof(*tunnel));
	if (!tunnel)
		return leave(REASON_HEADROOM);
	tunnel->udp = (struct udphdr){
		.source = be16(SOURCE_PORTS | (hash & ~SOURCE_PORTS & 0xffff)),
		.dest = TUNNEL_PORT,
		.len = be16(length - node->outer_ip),
	};
	tunnel->gue = (struct gue){
		.words = PATH_WORDS + more * (hop_size(node) / 4),
		.protocol = ip_version(p) == 4 ? IPPROTO_IPIP : IPPROTO_IPV6,
	};
	tunnel->path = (struct path){
		.version = PATH_VERSION | to->asks,
		.place = (1 + more) << 4,
		.view = node->view,
		.tag = node->tag[0],
	};
	if (more && !(write_hop(node, &c, to->second) &&
		      (!to->third || write_hop(node, &c, to->third))))
		return leave(REASON_HEADROOM);
	return send(ctx, node, &arrived, first, length, reason);
}

/*
 * There is no room for a tunnel round the packet: the client is told what there is
 * room for. Or for a tunnel as it came: its sender is, and will tell the client.
 */
INLINE int too_big(struct xdp_md *ctx, const struct packet *p, int version, __u16 length, __u32 mtu)
{
	struct scratch *scratch = this_scratch();

	if (!scratch)
		return XDP_DROP;	/* cannot be */
	scratch->flow = (struct flow){
		.l3 = p->l3, .length = length, .kind = p->kind, .version = version,
	};
	return tell_too_big(ctx, &scratch->flow, mtu);
}

/* Over IPv4 the last of an address's words is the address. */
INLINE int write_hop(const struct node *node, struct cursor *c, __u32 index)
{
	const struct peer *peer = bpf_map_lookup_elem(&peers, &index);
	struct address *hop;
	__be32 *word;

	if (!peer)
		return 0;
	if (likely(node->outer_ip == sizeof(struct iphdr))) {
		word = take(c, sizeof(*word));
		if (word)
			*word = peer->address.word[3];
		return !!word;
	}
	hop = take(c, sizeof(*hop));
	if (hop)
		*hop = peer->address;
	return !!hop;
}

/* Addresses the frame by what user space knows of the way to the peer. */
INLINE int send(struct xdp_md *ctx, struct node *node, const struct macs *arrived,
		const struct peer *to, __u32 length, __u32 reason)
{
	const struct clock *clock = this_clock();
	struct cursor c = frame_of(ctx);
	struct ethhdr *eth = take(&c, sizeof(*eth));
	__be16 type = outer_type(node);
	struct vlan_header *tagged;

	if (!eth)
		return leave(REASON_HEADROOM);
	/* The kernel has no way through a VLAN's parent: the last one that was known is better. */
	if (unlikely((!clock || clock->now >= to->valid_until) && !(to->vlan && to->valid_until))) {
		*(struct macs *)eth = *arrived;
		eth->h_proto = type;
		return send_by_kernel(ctx, node, eth, to, length, reason);
	}
	if (unlikely(to->vlan)) {
		if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct vlan)))
			return leave(REASON_HEADROOM);
		c = frame_of(ctx);
		tagged = take(&c, sizeof(*tagged));
		if (!tagged)
			return leave(REASON_HEADROOM);
		tagged->macs = to->macs;
		tagged->tag[0] = be16(ETH_P_8021Q) | (__u32)to->vlan << 16;
		*(__be16 *)&tagged->tag[1] = type;
	} else {
		*(struct macs *)eth = to->macs;
		eth->h_proto = type;
	}
	if (to->flags & PEER_BOUNCE && to->ifindex == ctx->ingress_ifindex)
		return sent(XDP_TX, reason);
	return sent(bpf_redirect(to->ifindex, 0), reason);
}

/*
 * The kernel knows the way, or finds it: where it does not know the neighbour
 * (or does not route for others), find_neighbour sends the frame.
 */
INLINE int send_by_kernel(struct xdp_md *ctx, struct node *node, struct ethhdr *eth,
			  const struct peer *to, __u32 length, __u32 reason)
{
	struct bpf_fib_lookup way = {
		.l4_protocol = IPPROTO_UDP,
		.tot_len = length,
		.ifindex = ctx->ingress_ifindex,
	};

	if (to->flags & PEER_BY_KERNEL || to->vlan)
		return leave(REASON_UNRESOLVED);
	if (likely(node->outer_ip == sizeof(struct iphdr))) {
		way.family = AF_INET;
		way.ipv4_src = node->address.word[3];
		way.ipv4_dst = to->address.word[3];
	} else {
		way.family = AF_INET6;
		__builtin_memcpy(way.ipv6_src, &node->address, sizeof(node->address));
		__builtin_memcpy(way.ipv6_dst, &to->address, sizeof(to->address));
	}
	switch (bpf_fib_lookup(ctx, &way, sizeof(way), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		__builtin_memcpy(eth->h_dest, way.dmac, sizeof(eth->h_dest));
		__builtin_memcpy(eth->h_source, way.smac, sizeof(eth->h_source));
		return sent(bpf_redirect(way.ifindex, 0), reason);
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return leave(REASON_NO_NEIGHBOUR);
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return leave(REASON_TOO_BIG);
	}
	return leave(REASON_UNRESOLVED);
}
