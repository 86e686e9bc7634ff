//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a backend runs: a packet that a node put into another for one of our
 * VIPs is taken out again and goes to the stack, which answers the client.
 */
#include "service.h"

/* Whoever may send us such packets. */
INLINE int is_trusted(const struct address *a)
{
	struct source_key key = { .bits = 128, .address = *a };
	struct source *s = bpf_map_lookup_elem(&sources, &key);

	return s && s->flags & SOURCE_TRUSTED;
}

/* Takes UDP and GUE without anything of ours in it. */
INLINE __u8 take_gue(struct cursor *c)
{
	struct udphdr *udp = take(c, sizeof(*udp));
	struct gue *gue = take(c, sizeof(*gue));

	if (!udp || !gue || udp->dest != TUNNEL_PORT || gue->words || gue->flags)
		return 0;
	return gue->protocol;
}

/* The protocol of the packet inside; 0: there is none. */
INLINE __u8 take_outer(struct cursor *c, __be16 type, struct address *from)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	__u8 protocol;

	if (type == be16(ETH_P_IP)) {
		ip = take(c, sizeof(*ip));
		if (!ip || ip->version != 4 || ip->ihl != 5 || ip->frag_off & be16(0x3fff))
			return 0;
		*from = mapped(ip->saddr);
		protocol = ip->protocol;
	} else if (type == be16(ETH_P_IPV6)) {
		ip6 = take(c, sizeof(*ip6));
		if (!ip6)
			return 0;
		*from = address_of(&ip6->saddr);
		protocol = ip6->nexthdr;
	} else {
		return 0;
	}
	return protocol == IPPROTO_UDP ? take_gue(c) : protocol;
}

INLINE int find_inner(struct cursor *c, __u8 protocol, struct packet *p)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;

	if (protocol == IPPROTO_IPIP) {
		ip = take(c, sizeof(*ip));
		if (!ip || ip->version != 4)
			return 0;
		p->ip = ip;
		p->ip_size = sizeof(*ip);
		p->dst = mapped(ip->daddr);
	} else if (protocol == IPPROTO_IPV6) {
		ip6 = take(c, sizeof(*ip6));
		if (!ip6 || ip6->version != 6)
			return 0;
		p->ip = ip6;
		p->ip_size = sizeof(*ip6);
		p->dst = address_of(&ip6->daddr);
	} else {
		return 0;
	}
	return find_vip(&p->dst) != NULL;
}

SEC("xdp.frags")
int unwrap_packet(struct xdp_md *ctx)
{
	struct cursor c = frame_of(ctx);
	void *frame = c.at, *outer;
	struct address from = {};
	struct packet p;
	__u8 protocol;
	__be16 type;

	in_memory(&p);
	type = take_ethernet(&c, &p);
	outer = c.at;
	protocol = take_outer(&c, type, &from);
	if (!protocol || !find_inner(&c, protocol, &p))
		return VERDICT(leave(REASON_NOT_VIP));
	if (!is_trusted(&from))
		return VERDICT(leave(REASON_STRANGER));
	p.macs = frame;
	return VERDICT(to_stack(ctx, &p, p.ip - outer, REASON_UNWRAPPED));
}
