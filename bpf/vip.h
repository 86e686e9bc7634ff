/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Rule 2: what is for a VIP, and what is served there. */
#pragma once

#include "fragment.h"

/* What is behind the IP headers, which were read as why says. */
INLINE int read_behind(struct cursor *c, struct packet *p, int why, __u8 icmp)
{
	if (why != STEER)
		return why == PART ? read_part(c, p) : why;
	if (likely(p->protocol == IPPROTO_TCP))
		return read_tcp(c, p);
	if (p->protocol == IPPROTO_UDP)
		return read_udp(c, p);
	if (p->protocol != icmp)
		return REASON_NO_PORT;
	return icmp == IPPROTO_ICMP ? read_icmp4(c, p) : read_icmp6(c, p);
}

/* The address alone comes first: what is not for a VIP costs one lookup. */
INLINE int read_vip4(struct cursor *c, struct iphdr *ip, struct packet *p)
{
	p->dst = mapped(ip->daddr);
	p->vip = find_vip(&p->dst);
	if (!p->vip)
		return REASON_NOT_VIP;
	p->src = mapped(ip->saddr);
	return read_behind(c, p, read_ipv4(c, ip, p), IPPROTO_ICMP);
}

INLINE int read_vip6(struct cursor *c, struct ipv6hdr *ip, struct packet *p)
{
	p->dst = address_of(&ip->daddr);
	p->vip = find_vip(&p->dst);
	if (!p->vip || is_ipv4(&p->dst))	/* a mapped address is nobody's on the wire */
		return REASON_NOT_VIP;
	p->src = address_of(&ip->saddr);
	return read_behind(c, p, read_ipv6(c, ip, p), IPPROTO_ICMPV6);
}

#define NOT_SERVED ~0ULL	/* no service and its flags */

/* The number of the service at the packet's port, 0: the workers, and SERVED_* << 32. */
INLINE __u64 served_by(const struct packet *p)
{
	for (__u32 i = 0; i < VIP_PORTS && i < p->vip->ports; i++) {
		const struct served *s = &p->vip->port[i];
		__u64 how;

		if (s->protocol != p->protocol || (s->port != p->dport && s->port))
			continue;
		how = s->service | (__u64)s->flags << 32;
		asm volatile("" : "+r"(how));	/* read now, so that nothing more depends on i */
		return how;
	}
	return NOT_SERVED;
}
