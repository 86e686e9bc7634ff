/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What we put round a packet to take it to its owner:
 *
 *	Ethernet | IP | UDP to TUNNEL_PORT | GUE | path | more hops | the packet
 *
 * The path says which hop of how many the outer destination is; the addresses
 * of the hops after the first follow it. 40 bytes, and 4 per further hop; over
 * IPv6 60 and 16.
 */
#pragma once

#include "parse.h"

#define HOPS 3			/* owners in a chain */
#define PATH_VERSION 0x10	/* the lower four bits are flags */
#define PATH_ASKS 0x01	/* a SYN that only a half-open connection takes before the last hop */
#define SOURCE_PORTS 0xc000	/* the lower 14 bits are of the flow's hash */
#define OUTER_TTL 64

/* Generic UDP Encapsulation, version 0, no control message. */
struct gue {
	__u8 words;		/* how many 32-bit words follow this header */
	__u8 protocol;		/* IPPROTO_IPIP or IPPROTO_IPV6 */
	__be16 flags;		/* none: all that follows is ours */
};

struct path {
	__u8 version;		/* and flags */
	__u8 place;		/* hops << 4 | index of the outer destination among them */
	__be16 view;		/* of the sender's epochs */
	__be32 tag;		/* proves that the sender has the cluster's key */
};

/* What follows the outer IP header. */
struct tunnel {
	struct udphdr udp;
	struct gue gue;
	struct path path;
};
_Static_assert(sizeof(struct tunnel) == 20, "struct tunnel");

/*
 * A message between the programs themselves: a GUE control message whose type
 * says what it asks. Whoever gets a question of a peer sends it back as answer.
 */
#define GUE_CONTROL 0x20	/* in gue.words */
#define PULSE_QUESTION 1
#define PULSE_ANSWER 2

struct pulse_message {
	__be32 sequence;	/* as it was asked */
	__be32 age;		/* ms since a worker's loops last turned; NEVER */
};
#define NEVER 0xffffffff
#define PULSE_WORDS (PATH_WORDS + sizeof(struct pulse_message) / 4)

#define PATH_WORDS (sizeof(struct path) / 4)

INLINE __u32 halves(__be32 word)
{
	return (word & 0xffff) + (word >> 16);
}

INLINE void write_outer_ip(struct iphdr *ip, __be32 from, __be32 to, __u16 length)
{
	const __be32 first = be32(0x45000000), second = be32(0x00004000);	/* never fragmented */
	const __be32 third = be32(OUTER_TTL << 24 | IPPROTO_UDP << 16);
	__u32 sum = halves(first) + halves(second) + halves(third) + be16(length) +
		    halves(from) + halves(to);
	__be32 *word = (void *)ip;

	sum = halves(sum);
	word[0] = first | (__u32)be16(length) << 16;
	word[1] = second;
	word[2] = third | (__u32)(__u16)~halves(sum) << 16;
	word[3] = from;
	word[4] = to;
}

INLINE void write_outer_ip6(struct ipv6hdr *ip, const struct address *from,
			    const struct address *to, __u16 length)
{
	__be32 *word = (void *)ip;

	word[0] = be32(0x60000000);
	word[1] = (__u32)be16(length - sizeof(*ip)) | be32(IPPROTO_UDP << 8 | OUTER_TTL);
	__builtin_memcpy(&word[2], from, sizeof(*from));
	__builtin_memcpy(&word[6], to, sizeof(*to));
}

/*
 * The outer IP header of this node's tunnels, 20 or 40 bytes, and the address
 * of a hop, 4 or 16: without a branch, so that the verifier sees one way.
 */
INLINE __u64 outer_size(const struct node *node)
{
	return node->outer_ip & 0x3f;
}

INLINE __u64 hop_size(const struct node *node)
{
	return (node->outer_ip - 16 - (node->outer_ip & 8)) & 0x1f;
}

/* What goes round a packet that every owner of a chain may be asked about. */
INLINE __u32 longest_overhead(const struct node *node)
{
	return outer_size(node) + sizeof(struct tunnel) + (HOPS - 1) * hop_size(node);
}

INLINE __be16 outer_type(const struct node *node)
{
	return node->outer_ip == sizeof(struct iphdr) ? be16(ETH_P_IP) : be16(ETH_P_IPV6);
}

/* Makes the verifier forget what it knows of a small number, by a sum that is 0. */
INLINE void forget(const struct node *node, __u64 *number)
{
	const volatile struct node *n = node;

	*number = (*number + n->outer_ip - n->outer_ip) & 0x1f;
}

INLINE void turn_round(struct macs *macs)
{
	__u32 *word = macs->word, first = word[0], second = word[1];

	word[0] = second >> 16 | word[2] << 16;
	word[1] = (word[2] >> 16) | first << 16;
	word[2] = first >> 16 | second << 16;
}

/* Take one from the TTL or hop limit of the packet; 0: it had none to give. */
INLINE int age4(struct iphdr *ip)
{
	__u32 sum;

	if (ip->ttl <= 1)
		return 0;
	ip->ttl--;
	sum = ip->check + be16(0x0100);	/* RFC 1141 */
	ip->check = sum + (sum >= 0xffff);
	return 1;
}

INLINE int age6(struct ipv6hdr *ip)
{
	if (ip->hop_limit <= 1)
		return 0;
	ip->hop_limit--;
	return 1;
}

INLINE int age(void *packet)
{
	return ((struct iphdr *)packet)->version == 6 ? age6(packet) : age4(packet);
}
