/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Rule 1: what is encapsulated to this node. Anything else to that port is
 * dropped, and nothing of it is hashed again.
 */
#pragma once

#include "encap.h"
#include "icmp.h"

/* What a packet to this node itself is, beside the reasons, STEER and PART. */
#define TUNNEL -3
#define FABRIC_ICMP -4		/* perhaps about a tunnel of ours */
#define NOT_OWN -5		/* nothing of that */

/*
 * A wrong outer header to our port is no packet of anybody else: from_peer
 * drops it. It finds the sender as p->src, the packet's length as p->length, 0
 * for what cannot be ours.
 */
INLINE int read_own4(const struct cursor *c, const struct node *node, const struct iphdr *ip,
		     struct packet *p)
{
	const struct udphdr *udp = c->at;

	if (ip->daddr != node->address.word[3] || node->outer_ip != sizeof(*ip))
		return NOT_OWN;
	if (ip->protocol == IPPROTO_ICMP)
		return FABRIC_ICMP;
	if (ip->protocol != IPPROTO_UDP || (void *)(udp + 1) > c->end ||
	    udp->dest != TUNNEL_PORT || ip->ihl != 5)
		return NOT_OWN;
	p->src = mapped(ip->saddr);
	p->length = ip->frag_off & be16(0x3fff) ? 0 : be16(ip->tot_len);
	return TUNNEL;
}

INLINE int read_own6(const struct cursor *c, const struct node *node, const struct ipv6hdr *ip,
		     struct packet *p)
{
	const struct udphdr *udp = c->at;

	if (!is_address(&ip->daddr, &node->address) || node->outer_ip != sizeof(*ip))
		return NOT_OWN;
	if (ip->nexthdr == IPPROTO_ICMPV6)
		return FABRIC_ICMP;
	if (ip->nexthdr != IPPROTO_UDP || (void *)(udp + 1) > c->end || udp->dest != TUNNEL_PORT)
		return NOT_OWN;
	p->src = address_of(&ip->saddr);
	p->length = be16(ip->payload_len) + sizeof(*ip);
	return TUNNEL;
}

/* From a peer, in the cluster's key, and what we would have written ourselves. */
INLINE int check_outer(const struct node *node, const struct tunnel *tunnel, const __u32 *peer)
{
	__u32 hops = tunnel->path.place >> 4, index = tunnel->path.place & 0xf;
	__u32 words = PATH_WORDS + (hops - 1) * (hop_size(node) / 4);

	if (tunnel->gue.words & GUE_CONTROL)
		words = PULSE_WORDS | GUE_CONTROL;
	if ((tunnel->path.version & ~PATH_ASKS) != PATH_VERSION || tunnel->gue.flags ||
	    hops < 1 || hops > HOPS || index >= hops || tunnel->gue.words != words)
		return REASON_BAD_TUNNEL;
	if (!(node->flags & NODE_TUNNELS) ||
	    (tunnel->path.tag != node->tag[0] && tunnel->path.tag != node->tag[1]))
		return REASON_BAD_TAG;
	return peer && *peer != SELF ? STEER : REASON_STRANGER;
}

/* A router's answer to a packet of ours that was too big for it. */
struct fabric_icmp4 {
	struct iphdr ip;
	struct too_big icmp;
	struct iphdr sent;
	struct tunnel tunnel;
};

struct fabric_icmp6 {
	struct ipv6hdr ip;
	struct too_big icmp;
	struct ipv6hdr sent;
	struct tunnel tunnel;
};

/* What of it matters, whichever IP. */
struct complaint {
	struct address to;	/* whom we sent the packet to */
	__u32 length, mtu;	/* the packet's, and what there is room for */
};

INLINE struct tunnel *read_complaint4(struct cursor *c, const struct node *node,
				      struct complaint *about)
{
	struct fabric_icmp4 *e = take(c, sizeof(*e));

	if (!e || e->ip.ihl != 5 || e->ip.frag_off & be16(0x3fff) || e->icmp.type != 3 ||
	    e->icmp.code != 4 || e->sent.ihl != 5 || e->sent.protocol != IPPROTO_UDP ||
	    e->sent.saddr != node->address.word[3])
		return NULL;
	about->to = mapped(e->sent.daddr);
	about->length = be16(e->sent.tot_len);
	about->mtu = be32(e->icmp.mtu) & 0xffff;
	return &e->tunnel;
}

INLINE struct tunnel *read_complaint6(struct cursor *c, const struct node *node,
				      struct complaint *about)
{
	struct fabric_icmp6 *e = take(c, sizeof(*e));

	if (!e || e->icmp.type != 2 || e->sent.nexthdr != IPPROTO_UDP ||
	    !is_address(&e->sent.saddr, &node->address))
		return NULL;
	about->to = address_of(&e->sent.daddr);
	about->length = be16(e->sent.payload_len) + sizeof(e->sent);
	about->mtu = be32(e->icmp.mtu);
	return &e->tunnel;
}

/*
 * ICMP of the fabric that says how long packets to a peer may be. It is believed
 * if it quotes a tunnel of ours with the cluster's tag, and holds at once: the
 * next client whose packet does not fit is told. Other ICMP is the kernel's.
 */
__attribute__((noinline)) int learn_path_mtu(struct xdp_md *ctx, __u32 l3)
{
	const struct clock *clock = this_clock();
	struct node *node = this_node();
	struct complaint about = {};
	struct tunnel *tunnel;
	struct path_mtu *path;
	struct peer *peer;
	struct cursor c = frame_of(ctx);
	__u32 *index, least;

	if (!node || !clock)
		return leave(REASON_NOT_VIP);
	skip(&c, l3, 0x1f);
	tunnel = node->outer_ip == sizeof(struct iphdr) ? read_complaint4(&c, node, &about) :
							   read_complaint6(&c, node, &about);
	if (!tunnel || tunnel->udp.dest != TUNNEL_PORT)
		return leave(REASON_NOT_VIP);
	index = bpf_map_lookup_elem(&peer_index, &about.to);
	if (!(node->flags & NODE_TUNNELS) ||
	    (tunnel->path.tag != node->tag[0] && tunnel->path.tag != node->tag[1]))
		return leave(index ? REASON_BAD_TAG : REASON_NOT_VIP);	/* a service's GUE has none */
	if (!index || *index == SELF)
		return leave(REASON_STRANGER);
	peer = bpf_map_lookup_elem(&peers, index);
	path = bpf_map_lookup_elem(&path_mtus, index);
	if (!peer || !path || about.mtu >= about.length)
		return leave(REASON_NOT_VIP);
	least = node->outer_ip == sizeof(struct iphdr) ?
			LEAST_MTU4 + longest_overhead(node) :	/* then clients may be told still */
			LEAST_MTU6;
	if (about.mtu < least)
		about.mtu = least;
	if (about.mtu < peer->mtu)
		peer->mtu = about.mtu;
	path->mtu = about.mtu;
	path->at = clock->now;
	return leave(REASON_PATH_MTU);
}
