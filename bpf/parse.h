/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading a frame: one cursor, one bounds check per header. A take_… returns
 * NULL when its header is not whole.
 */
#pragma once

#include "hash.h"

#define VLAN_TAGS 2
#define EXTENSIONS 4
#define EXTENSION_BYTES 0x7ff	/* of them all */
#define TUNNEL_PORT be16(6080)	/* GUE */
#define LATEST (1 << 24)	/* bytes that a repeated segment lies behind, at most */

enum kind {
	KIND_SYN,		/* opens a connection */
	KIND_SEGMENT,		/* belongs to a connection */
	KIND_DATAGRAM,		/* UDP */
	KIND_ERROR,		/* ICMP about a segment or datagram of the flow */
};

/* A packet to a VIP, once parsed. */
struct packet {
	struct address src, dst;	/* of the flow, as the client's packets carry them */
	__be16 sport, dport;
	__u8 protocol;			/* of the flow */
	__u8 kind;
	struct macs *macs;		/* where the frame begins */
	__u64 l3;			/* 64 bits, so that the verifier knows it: where in the frame the (outer) IP header begins */
	__u16 length;			/* of the IP packet */
	const struct vip *vip;
	void *ip;			/* struct iphdr or ipv6hdr */
	__u32 ip_size;			/* of its fixed part: by it the version is known */
	struct tcphdr *tcp;		/* NULL: no segment, or not its beginning */
	__u64 part;			/* names the packet that this is a fragment of; 0: it is whole */
	__u32 id;			/* of a PART */
	__u32 offset;			/* of a PART, in units of 8 bytes */
};

INLINE int ip_version(const struct packet *p)
{
	return p->ip_size == sizeof(struct iphdr) ? 4 : 6;
}

/*
 * Keeps a packet in memory: in registers, clang would carry each field through
 * each branch where it has no value yet.
 */
INLINE void in_memory(struct packet *p)
{
	asm volatile("" : : "r"(p) : "memory");
}

struct cursor {
	void *at, *end;
};

INLINE void *take(struct cursor *c, __u32 size)
{
	void *header = c->at;

	if (unlikely(header + size > c->end))
		return NULL;
	c->at = header + size;
	return header;
}

/* Passes over at most mask bytes; the next take checks. The mask is for the verifier. */
INLINE void skip(struct cursor *c, __u64 size, __u64 mask)
{
	asm volatile("" : "+r"(size));	/* else clang proves the mask away */
	c->at += size & mask;
}

INLINE struct cursor frame_of(struct xdp_md *ctx)
{
	return (struct cursor){ (void *)(long)ctx->data, (void *)(long)ctx->data_end };
}

/* Whether the frame has so many bytes; those beyond a page cost a helper's call. */
INLINE int is_whole(struct xdp_md *ctx, __u64 length)
{
	struct cursor c = frame_of(ctx);

	return likely(length <= c.end - c.at) || length <= bpf_xdp_get_buff_len(ctx);
}

struct vlan {
	__be16 tag, type;
};

/* An Ethernet header with tags, so that it can be copied without its last type. */
struct vlan_header {
	struct macs macs;
	__u32 tag[VLAN_TAGS];
};

/* Returns the type of what follows Ethernet and up to VLAN_TAGS tags; 0: not whole. */
INLINE __be16 take_ethernet(struct cursor *c, struct packet *p)
{
	struct ethhdr *eth = take(c, sizeof(*eth));
	__be16 type;

	if (!eth)
		return 0;
	type = eth->h_proto;
	p->macs = (void *)eth;
	p->l3 = sizeof(*eth);
#pragma unroll
	for (int i = 0; i < VLAN_TAGS; i++) {
		struct vlan *vlan;

		if (likely(type != be16(ETH_P_8021Q) && type != be16(ETH_P_8021AD)))
			break;
		vlan = take(c, sizeof(*vlan));
		if (!vlan)
			return 0;
		type = vlan->type;
		p->l3 += sizeof(*vlan);
	}
	return type;
}

INLINE struct address address_of(const struct in6_addr *ip)
{
	return (struct address){ { ip->in6_u.u6_addr32[0], ip->in6_u.u6_addr32[1],
				   ip->in6_u.u6_addr32[2], ip->in6_u.u6_addr32[3] } };
}

INLINE int is_address(const struct in6_addr *ip, const struct address *a)
{
	return ip->in6_u.u6_addr32[0] == a->word[0] && ip->in6_u.u6_addr32[1] == a->word[1] &&
	       ip->in6_u.u6_addr32[2] == a->word[2] && ip->in6_u.u6_addr32[3] == a->word[3];
}

/*
 * The parts below return why the packet cannot be steered, or STEER, or PART for
 * a fragment.
 */
#define STEER -1
#define PART -2

/* Fills in what the fixed IPv4 header says; the cursor goes behind its options. */
INLINE int read_ipv4(struct cursor *c, struct iphdr *ip, struct packet *p)
{
	p->length = be16(ip->tot_len);
	p->protocol = ip->protocol;
	p->ip = ip;
	p->ip_size = sizeof(*ip);
	if (ip->version != 4 || ip->ihl < 5 || p->length < ip->ihl * 4)
		return REASON_BAD_HEADER;
	if (unlikely(ip->ihl > 5))
		skip(c, ip->ihl * 4 - sizeof(*ip), 0x3f);
	if (likely(!(ip->frag_off & be16(0x3fff))))
		return STEER;
	p->id = ip->id;	/* more fragments, or not the first */
	p->offset = be16(ip->frag_off) & 0x1fff;
	return PART;
}

struct extension {
	__u8 next, length;		/* in 8 bytes, without the first 8 */
	__be16 offset;			/* of a fragment header: and whether there are more */
	__u32 rest;			/* of a fragment header: the packet's id */
};

INLINE int is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
	       next == IPPROTO_FRAGMENT;
}

/*
 * Goes behind the extension headers. Each is read from where the first begins,
 * so that the verifier sees one state at the end and not one per header.
 */
INLINE int read_extensions(struct cursor *c, __u8 next, struct packet *p)
{
	const struct cursor first = *c;
	int whole = STEER;
	__u64 size = 0;

#pragma unroll
	for (int i = 0; i < EXTENSIONS && is_extension(next); i++) {
		struct extension *e;

		*c = first;
		skip(c, size, EXTENSION_BYTES);
		e = take(c, sizeof(*e));
		if (!e)
			return REASON_SHORT;
		size += sizeof(*e) + (next == IPPROTO_FRAGMENT ? 0 : e->length * 8);
		if (next == IPPROTO_FRAGMENT && e->offset & be16(0xfff9)) {
			p->id = e->rest;	/* more fragments, or not the first */
			p->offset = be16(e->offset) >> 3;
			whole = PART;
		}
		next = e->next;
		if (whole == PART && p->offset)
			break;	/* what follows is data */
	}
	if (is_extension(next) || size > EXTENSION_BYTES)
		return REASON_TOO_MANY_PARTS;
	*c = first;
	skip(c, size, EXTENSION_BYTES);
	p->protocol = next;
	return whole;
}

/* Fills in what the IPv6 header says; the cursor goes behind its extensions. */
INLINE int read_ipv6(struct cursor *c, struct ipv6hdr *ip, struct packet *p)
{
	p->length = be16(ip->payload_len) + sizeof(*ip);
	p->protocol = ip->nexthdr;
	p->ip = ip;
	p->ip_size = sizeof(*ip);
	if (ip->version != 6)
		return REASON_BAD_HEADER;
	if (unlikely(is_extension(ip->nexthdr)))
		return read_extensions(c, ip->nexthdr, p);
	return STEER;
}

/* The last six flags of a TCP header. */
enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16, URG = 32 };

/* Every segment but a pure SYN and a RST has ACK; none has SYN with ACK, FIN or RST here. */
INLINE int read_tcp(struct cursor *c, struct packet *p)
{
	struct tcphdr *tcp = take(c, sizeof(*tcp));
	__u8 flags;

	if (!tcp)
		return REASON_SHORT;
	p->tcp = tcp;
	p->sport = tcp->source;
	p->dport = tcp->dest;
	flags = ((__u8 *)tcp)[13];
	if (flags & SYN) {
		if (flags & (FIN | RST | ACK))
			return REASON_BAD_FLAGS;
		p->kind = KIND_SYN;
	} else {
		if (!(flags & (ACK | RST)))
			return REASON_BAD_FLAGS;
		p->kind = KIND_SEGMENT;
	}
	return STEER;
}

INLINE int read_udp(struct cursor *c, struct packet *p)
{
	struct udphdr *udp = take(c, sizeof(*udp));

	if (!udp)
		return REASON_SHORT;
	p->sport = udp->source;
	p->dport = udp->dest;
	p->kind = KIND_DATAGRAM;
	return STEER;
}

/* ICMP of either version. <linux/icmp.h> would bring in the C library. */
struct icmp {
	__u8 type, code;
	__be16 checksum;
	__be32 rest;
};

enum { UNREACHABLE4 = 3, TIME_EXCEEDED4 = 11, PARAMETER_PROBLEM4 = 12 };
enum { UNREACHABLE6 = 1, PARAMETER_PROBLEM6 = 4 };	/* and what lies between */

struct port_pair {
	__be16 source, dest;
};

/*
 * An ICMP error quotes a packet that the VIP sent: turned round, it names the
 * flow. Any other ICMP is answered where it arrives.
 */
INLINE int read_quoted(struct cursor *c, struct packet *p)
{
	struct port_pair *ports;

	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return REASON_ICMP;
	ports = take(c, sizeof(*ports));
	if (!ports)
		return REASON_ICMP;
	p->sport = ports->dest;
	p->dport = ports->source;
	p->kind = KIND_ERROR;
	return STEER;
}

INLINE int read_icmp4(struct cursor *c, struct packet *p)
{
	struct icmp *icmp = take(c, sizeof(*icmp));
	struct iphdr *quoted;

	if (!icmp)
		return REASON_SHORT;
	if (icmp->type != UNREACHABLE4 && icmp->type != TIME_EXCEEDED4 &&
	    icmp->type != PARAMETER_PROBLEM4)
		return REASON_ICMP;
	quoted = take(c, sizeof(*quoted));
	if (!quoted || quoted->version != 4 || quoted->ihl < 5 ||
	    quoted->frag_off & be16(0x1fff) || quoted->saddr != p->dst.word[3])
		return REASON_ICMP;
	if (quoted->ihl > 5)
		skip(c, quoted->ihl * 4 - sizeof(*quoted), 0x3f);
	p->src.word[3] = quoted->daddr;
	p->protocol = quoted->protocol;
	return read_quoted(c, p);
}

INLINE int read_icmp6(struct cursor *c, struct packet *p)
{
	struct icmp *icmp = take(c, sizeof(*icmp));
	struct ipv6hdr *quoted;

	if (!icmp)
		return REASON_SHORT;
	if (icmp->type < UNREACHABLE6 || icmp->type > PARAMETER_PROBLEM6)
		return REASON_ICMP;
	quoted = take(c, sizeof(*quoted));
	if (!quoted || quoted->version != 6 || !is_address(&quoted->saddr, &p->dst))
		return REASON_ICMP;
	p->src = address_of(&quoted->daddr);
	p->protocol = quoted->nexthdr;
	return read_quoted(c, p);
}
