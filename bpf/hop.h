/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Rules 4 and 5: a packet comes from a peer, in a tunnel. The last hop takes it,
 * the others do if they know the flow; settle.h is what they ask themselves.
 */
#pragma once

#include "ours.h"
#include "pulse.h"
#include "send.h"
#include "settle.h"
#include "vip.h"

INLINE int read_hop(const struct node *node, struct cursor *c, __u64 index, struct address *hop);
INLINE int read_inner(struct cursor *c, __u8 protocol, struct packet *p);
INLINE int to_stack(struct xdp_md *ctx, const struct packet *p, __u64 offset, __u32 reason);
INLINE int to_next_hop(struct xdp_md *ctx, struct node *node, struct packet *p, __u64 offset,
		       const struct address *next, __u32 length);

/* At a hop. The last one takes the packet, the others do if they know the flow. */
INLINE int from_peer(struct xdp_md *ctx, struct node *node, struct packet *p)
{
	__u64 offset;
	__u32 hops, index, length = p->length, *peer;
	struct address next = {};
	struct tunnel *tunnel;
	int why, asks, differs, last, hold;
	struct cursor c = frame_of(ctx);

	forget(node, &p->l3);	/* one way for all: with and without VLAN tags */
	skip(&c, p->l3 + outer_size(node), 0x7f);
	tunnel = take(&c, sizeof(*tunnel));
	if (!tunnel)
		return leave(REASON_BAD_TUNNEL);
	peer = bpf_map_lookup_elem(&peer_index, &p->src);
	why = check_outer(node, tunnel, peer);
	if (why != STEER)
		return leave(why);
	if (tunnel->gue.words & GUE_CONTROL)
		return answer_pulse(ctx, node, p, peer);
	hops = tunnel->path.place >> 4;
	index = tunnel->path.place & 0xf;
	last = index + 1 == hops;
	asks = tunnel->path.version & PATH_ASKS;
	differs = tunnel->path.view != node->view;
	if (!last && !read_hop(node, &c, index, &next))
		return leave(REASON_BAD_TUNNEL);
	offset = (outer_size(node) + sizeof(*tunnel) + (hops - 1) * hop_size(node)) & 0x7f;
	c = frame_of(ctx);
	skip(&c, p->l3 + offset, 0xff);
	why = read_inner(&c, tunnel->gue.protocol, p);
	if (why != STEER)
		return leave(DROPS >> why & 1 ? why : REASON_BAD_INNER);
	if (length != p->length + offset)
		return leave(REASON_BAD_TUNNEL);

	if (p->kind == KIND_SYN ? !asks || last : p->kind == KIND_DATAGRAM)
		return to_stack(ctx, p, offset, REASON_RECEIVED);
	hold = unlikely(differs || node->unsettled_until) && p->kind == KIND_SEGMENT &&
	       is_unsettled(node, differs);
	if (likely(hops == 1 && !hold))
		return to_stack(ctx, p, offset, REASON_RECEIVED);
	if (has_socket(ctx, p))
		return to_stack(ctx, p, offset, hops == 1 ? REASON_RECEIVED :
					last ? REASON_LAST_HOP : REASON_FOUND);
	if (hold && last)
		return leave(REASON_HELD);
	if (last || !may_miss(node))
		return to_stack(ctx, p, offset, last ? REASON_MISS_LAST_HOP : REASON_MISS_LIMIT);
	return to_next_hop(ctx, node, p, offset, &next, length);
}

INLINE int read_hop(const struct node *node, struct cursor *c, __u64 index, struct address *hop)
{
	__u64 size = hop_size(node);
	struct address *long_hop;
	__be32 *word;

	skip(c, index * size, 0x1f);
	if (likely(size == sizeof(*word))) {
		word = take(c, sizeof(*word));
		if (word)
			*hop = mapped(*word);
		return !!word;
	}
	long_hop = take(c, sizeof(*long_hop));
	if (long_hop)
		*hop = *long_hop;
	return !!long_hop;
}

INLINE int read_inner(struct cursor *c, __u8 protocol, struct packet *p)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;

	if (protocol == IPPROTO_IPIP) {
		ip = take(c, sizeof(*ip));
		return ip ? read_vip4(c, ip, p) : REASON_SHORT;
	}
	if (protocol == IPPROTO_IPV6) {
		ip6 = take(c, sizeof(*ip6));
		return ip6 ? read_vip6(c, ip6, p) : REASON_SHORT;
	}
	return REASON_BAD_TUNNEL;
}

/* Takes the outer headers away: Ethernet and its tags move up to the packet. */
INLINE int to_stack(struct xdp_md *ctx, const struct packet *p, __u64 offset, __u32 reason)
{
	struct cursor c = frame_of(ctx), end = c;
	const struct vlan_header *from = take(&c, sizeof(*from));
	struct vlan_header *to;
	__be16 *type;

	c = end;
	skip(&c, offset, 0x7f);
	to = take(&c, sizeof(*to));
	skip(&end, offset + p->l3 - sizeof(*type), 0xff);
	type = take(&end, sizeof(*type));
	if (!from || !to || !type)
		return leave(REASON_SHORT);	/* cannot be: the inner packet was read */
	to->macs = from->macs;
	if (p->l3 > sizeof(struct ethhdr))
		to->tag[0] = from->tag[0];
	if (p->l3 > sizeof(struct ethhdr) + sizeof(struct vlan))
		to->tag[1] = from->tag[1];
	*type = ip_version(p) == 4 ? be16(ETH_P_IP) : be16(ETH_P_IPV6);
	if (bpf_xdp_adjust_head(ctx, offset))
		return leave(REASON_HEADROOM);
	return leave(reason);
}

/* Sends the packet on in its tunnel, with the next of its hops as destination. */
INLINE int to_next_hop(struct xdp_md *ctx, struct node *node, struct packet *p, __u64 offset,
		       const struct address *next, __u32 length)
{
	__u32 *index = bpf_map_lookup_elem(&peer_index, next);
	const struct peer *to;
	struct tunnel *tunnel;
	struct macs arrived;
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	struct cursor c;

	if (!index)
		return leave(REASON_UNKNOWN_HOP);
	if (*index == SELF)	/* a list that somebody else made */
		return to_stack(ctx, p, offset, REASON_LAST_HOP);
	to = bpf_map_lookup_elem(&peers, index);
	if (!to)
		return leave(REASON_UNKNOWN_HOP);
	if (unlikely(length > to->mtu))
		return too_big(ctx, p, node->outer_ip == sizeof(*ip) ? 4 : 6, length, to->mtu);
	if (!is_whole(ctx, p->l3 + length))
		return leave(REASON_SHORT);
	if (!age(p->ip))
		return leave(REASON_HOP_LIMIT);
	c = frame_of(ctx);
	arrived = *p->macs;
	skip(&c, p->l3 + outer_size(node), 0x7f);
	tunnel = take(&c, sizeof(*tunnel));
	if (!tunnel)
		return leave(REASON_SHORT);
	tunnel->path.place++;
	tunnel->udp.len = be16(length - node->outer_ip);
	tunnel->udp.check = 0;
	c = frame_of(ctx);
	skip(&c, p->l3, 0x1f);
	if (likely(node->outer_ip == sizeof(*ip))) {
		ip = take(&c, sizeof(*ip));
		if (!ip)
			return leave(REASON_SHORT);
		write_outer_ip(ip, node->address.word[3], next->word[3], length);
	} else {
		ip6 = take(&c, sizeof(*ip6));
		if (!ip6)
			return leave(REASON_SHORT);
		write_outer_ip6(ip6, &node->address, next, length);
	}
	if (p->l3 != sizeof(struct ethhdr) &&
	    bpf_xdp_adjust_head(ctx, p->l3 - sizeof(struct ethhdr)))
		return leave(REASON_HEADROOM);
	return send(ctx, node, &arrived, to, length, REASON_MISSED);
}
