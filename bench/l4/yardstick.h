/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The yardstick: what a Maglev with a connection table does, as Katran does it:
 * parse, find the VIP, ask the CPU's LRU for the flow, else the hash's place in
 * the ring, write the flow down, count, encapsulate in IPIP, send back.
 *
 * It is tuned where Katran is general, so that what it costs is the design's:
 * flows of IPv4 have a short key and a table of their own, the LRU is a single
 * map without a common list instead of a map per CPU, there are no flags of VIPs
 * to ask, no QUIC, no ICMP, no fragments, and no limit on what is written down.
 */
#pragma once

#include "../../bpf/encap.h"

#define RING 65537
#define REALS 1024
#define CONNECTIONS 1048576
#define UDP_LIFE (30ULL * 1000000000)

struct yard_vip {
	struct address address;
	__be16 port;
	__u8 protocol, unused;
};

struct yard_flow4 {
	__be32 src, dst;
	__be16 sport, dport;
	__u32 protocol;
};

struct yard_flow6 {
	struct address src, dst;
	__be16 sport, dport;
	__u32 protocol;
};

struct yard_place {
	__u32 real, unused;
	__u64 at;	/* of UDP: when it was seen last */
};

struct yard_real {
	struct address address;
};

struct yard_count {
	__u64 packets, bytes;
};

struct yard_macs {
	struct macs macs;
	__u32 unused;
};

enum yard_statistic { YARD_VIP, YARD_HIT, YARD_MISS, YARD_STATISTICS };

MAP_DEFINITION(BPF_MAP_TYPE_HASH, struct yard_vip, __u32, 512, 1) yard_vips SEC(".maps"); /* no preallocation, as there */
MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, __u32, RING, 0) yard_ring SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct yard_real, REALS, 0) yard_reals SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct yard_macs, 1, 0) yard_gateway SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_LRU_HASH, struct yard_flow4, struct yard_place, CONNECTIONS, BPF_F_NO_COMMON_LRU) yard_flows4 SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_LRU_HASH, struct yard_flow6, struct yard_place, CONNECTIONS, BPF_F_NO_COMMON_LRU) yard_flows6 SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct yard_count, YARD_STATISTICS, 0) yard_statistics SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct yard_count, REALS, 0) yard_traffic SEC(".maps");

INLINE void yard_add(void *map, __u32 index, __u32 bytes)
{
	struct yard_count *c = bpf_map_lookup_elem(map, &index);

	if (c) {
		c->packets++;
		c->bytes += bytes;
	}
}

/* jhash_3words of the kernel. */
INLINE __u32 yard_turn(__u32 x, int n)
{
	return x << n | x >> (32 - n);
}

INLINE __u32 yard_hash(__u32 a, __u32 b, __u32 c)
{
	const __u32 begin = 0xdeadbeef + (3 << 2) + 10;

	a += begin; b += begin; c += begin;
	c ^= b; c -= yard_turn(b, 14);
	a ^= c; a -= yard_turn(c, 11);
	b ^= a; b -= yard_turn(a, 25);
	c ^= b; c -= yard_turn(b, 16);
	a ^= c; a -= yard_turn(c, 4);
	b ^= a; b -= yard_turn(a, 14);
	c ^= b; c -= yard_turn(b, 24);
	return c;
}

/* The real of a flow: where the table says, else where the ring does. */
INLINE __u32 yard_choose(void *flows, const void *flow, const struct packet *p, __u32 hash)
{
	struct yard_place *known, place = {};
	__u32 index = hash % RING, *real;

	if (p->kind != KIND_SYN) {
		known = bpf_map_lookup_elem(flows, flow);
		if (known && p->protocol == IPPROTO_UDP) {
			place.at = bpf_ktime_get_ns();
			if (place.at - known->at > UDP_LIFE)
				known = NULL;
			else
				known->at = place.at;
		}
		if (known) {
			yard_add(&yard_statistics, YARD_HIT, 0);
			return known->real;
		}
	}
	yard_add(&yard_statistics, YARD_MISS, 0);
	real = bpf_map_lookup_elem(&yard_ring, &index);
	if (!real)
		return 0;
	place.real = *real;
	if (p->protocol == IPPROTO_UDP)
		place.at = bpf_ktime_get_ns();
	bpf_map_update_elem(flows, flow, &place, BPF_ANY);
	return place.real;
}

INLINE __u32 yard_real4(const struct packet *p)
{
	struct yard_flow4 flow = { p->src.word[3], p->dst.word[3], p->sport, p->dport, p->protocol };

	return yard_choose(&yard_flows4, &flow, p,
			   yard_hash(flow.src, (__u32)flow.sport << 16 | flow.dport, 0));
}

INLINE __u32 yard_real6(const struct packet *p)
{
	struct yard_flow6 flow = { p->src, p->dst, p->sport, p->dport, p->protocol };
	__u32 hash = yard_hash(p->src.word[0], p->src.word[1], p->src.word[2]);

	return yard_choose(&yard_flows6, &flow, p,
			   yard_hash(hash ^ p->src.word[3], (__u32)flow.sport << 16 | flow.dport, 0));
}

INLINE int yard_send4(struct xdp_md *ctx, const struct packet *p, const struct yard_real *real,
		      const struct yard_macs *gateway)
{
	__u32 length = p->length + sizeof(struct iphdr), sum;
	__be32 source = be32(0xac100000) | (p->sport << 16 ^ p->src.word[3]) >> 16 << 16, *word;
	struct cursor c;
	struct ethhdr *eth;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct iphdr)))
		return XDP_DROP;
	c = frame_of(ctx);
	eth = take(&c, sizeof(*eth));
	word = eth ? take(&c, sizeof(struct iphdr)) : NULL;
	if (!word)
		return XDP_DROP;
	*(struct macs *)eth = gateway->macs;
	eth->h_proto = be16(ETH_P_IP);
	word[0] = be32(0x45000000) | (__u32)be16(length) << 16;
	word[1] = 0;
	word[3] = source;
	word[4] = real->address.word[3];
	sum = halves(word[0]) + halves(word[3]) + halves(word[4]) +
	      halves(be32(OUTER_TTL << 24 | IPPROTO_IPIP << 16));
	sum = halves(sum);
	word[2] = be32(OUTER_TTL << 24 | IPPROTO_IPIP << 16) | (__u32)(__u16)~halves(sum) << 16;
	return XDP_TX;
}

INLINE int yard_send6(struct xdp_md *ctx, const struct packet *p, const struct yard_real *real,
		      const struct yard_macs *gateway)
{
	struct cursor c;
	struct ethhdr *eth;
	struct ipv6hdr *ip;
	__be32 *word;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*ip)))
		return XDP_DROP;
	c = frame_of(ctx);
	eth = take(&c, sizeof(*eth));
	ip = eth ? take(&c, sizeof(*ip)) : NULL;
	if (!ip)
		return XDP_DROP;
	*(struct macs *)eth = gateway->macs;
	eth->h_proto = be16(ETH_P_IPV6);
	word = (void *)ip;
	word[0] = be32(0x60000000);
	ip->payload_len = be16(p->length);
	ip->nexthdr = IPPROTO_IPV6;
	ip->hop_limit = OUTER_TTL;
	*(struct address *)&ip->saddr = (struct address){ { be32(0x01000000), 0, 0, p->src.word[3] ^ p->sport } };
	*(struct address *)&ip->daddr = real->address;
	return XDP_TX;
}

INLINE int yard_read(struct cursor *c, struct packet *p, __be16 type)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	int why;

	if (type == be16(ETH_P_IP)) {
		ip = take(c, sizeof(*ip));
		if (!ip)
			return REASON_SHORT;
		p->src = mapped(ip->saddr);
		p->dst = mapped(ip->daddr);
		why = read_ipv4(c, ip, p);
	} else if (type == be16(ETH_P_IPV6)) {
		ip6 = take(c, sizeof(*ip6));
		if (!ip6)
			return REASON_SHORT;
		p->src = address_of(&ip6->saddr);
		p->dst = address_of(&ip6->daddr);
		why = read_ipv6(c, ip6, p);
	} else {
		return REASON_NOT_IP;
	}
	if (why != STEER)
		return why;
	return p->protocol == IPPROTO_TCP ? read_tcp(c, p) :
	       p->protocol == IPPROTO_UDP ? read_udp(c, p) : REASON_NOT_VIP;
}

INLINE int yardstick(struct xdp_md *ctx)
{
	struct cursor c = frame_of(ctx);
	struct yard_macs *gateway;
	struct yard_vip vip = {};
	struct yard_real *real;
	struct packet p;
	__u32 index, zero = 0, *number;
	__be16 type;

	p.tcp = NULL;
	in_memory(&p);
	type = take_ethernet(&c, &p);
	if (yard_read(&c, &p, type) != STEER)
		return XDP_PASS;
	vip.address = p.dst;
	vip.port = p.dport;
	vip.protocol = p.protocol;
	number = bpf_map_lookup_elem(&yard_vips, &vip);
	if (!number)
		return XDP_PASS;
	gateway = bpf_map_lookup_elem(&yard_gateway, &zero);
	index = type == be16(ETH_P_IP) ? yard_real4(&p) : yard_real6(&p);
	real = bpf_map_lookup_elem(&yard_reals, &index);
	if (!real || !gateway)
		return XDP_DROP;
	yard_add(&yard_statistics, YARD_VIP, p.length);
	yard_add(&yard_traffic, index, p.length);
	return type == be16(ETH_P_IP) ? yard_send4(ctx, &p, real, gateway) :
					yard_send6(ctx, &p, real, gateway);
}
