/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Services: packets that go to backends, which answer the client themselves.
 *
 * A flow's hash names a place of the service's ring, and the place a backend.
 * While a place is settled that is all: no flow is written down or looked up.
 * Once its backend changes, it names two: the settled one, who has the flows
 * that nobody wrote down, and the one who takes new connections, which are
 * written down from then on. User space settles the place again.
 */
#pragma once

#include "encap.h"
#include "fragment.h"
#include "icmp.h"
#include "protect.h"

#define SERVICES 512		/* number 0 is none */
#define BACKENDS 16384		/* number 0 is none; of all services */
#define FLOWS 131072		/* connections that are written down, on all CPUs */

enum forward {
	FORWARD_IPIP = 1,	/* IPv4 or IPv6 in IPv4 or IPv6 */
	FORWARD_GUE = 2,	/* and UDP in between, so that the network spreads flows */
	FORWARD_L2 = 3,		/* as it is, to the backend's MAC address */
};

#define SERVICE_BY_CLIENT 1	/* all flows of a client go to one backend */

struct service {
	__u8 forward;
	__u8 flags;		/* SERVICE_* */
	__u16 unused;
};
_Static_assert(sizeof(struct service) == 4, "struct service");

#define BACKEND_BOUNCE 1	/* as PEER_BOUNCE */
#define BACKEND_BY_KERNEL 2	/* as PEER_BY_KERNEL */
#define BACKEND_HERE 4		/* an address of this node */
#define BACKEND_KEEPS 8		/* it is up, or may be: its flows stay */

/* A backend of a service, and how frames get there from here. */
struct backend {
	struct address address;
	struct address source;	/* of what encapsulates a packet to it */
	__u64 valid_until;	/* the way holds until then (monotonic ns) */
	__u32 ifindex;
	__u16 mtu;		/* of the way there: the longest outer IP packet */
	__u16 flags;		/* BACKEND_* */
	struct macs macs;
	__u16 service;		/* whose it is */
	__u16 life;		/* differs between two that had one number */
};
_Static_assert(sizeof(struct backend) == 64, "struct backend");

/* What a backend got. */
struct traffic {
	__u64 packets, bytes;	/* IP, before encapsulation */
	__u64 connections;	/* SYNs */
};
_Static_assert(sizeof(struct traffic) == 24, "struct traffic");

/* A connection that was written down: the backend's number, its life << 16. */
MAP_DEFINITION(BPF_MAP_TYPE_LRU_HASH, __u64, __u32, FLOWS, BPF_F_NO_COMMON_LRU) flows SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct service, SERVICES, 0) services SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct backend, BACKENDS, BPF_F_MMAPABLE) backends SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct traffic, BACKENDS, 0) traffic SEC(".maps");

/* Address of a backend to its number, for find_neighbour: any of those it has. */
MAP_DEFINITION(BPF_MAP_TYPE_HASH, struct address, __u32, BACKENDS, 0) backend_index SEC(".maps");

/* Who takes a place's new connections | who has it settled << 16, or 0. */
struct ring {
	uint_field(type, BPF_MAP_TYPE_ARRAY);
	type_field(key, __u32);
	type_field(value, __u64);
	uint_field(max_entries, ROWS);
	uint_field(map_flags, BPF_F_MMAPABLE);
};

/* The ring of each service. */
struct {
	uint_field(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	uint_field(max_entries, SERVICES);
	uint_field(key_size, sizeof(__u32));
	uint_field(value_size, sizeof(__u32));
	struct ring *values[];
} rings SEC(".maps");

INLINE __u64 *place_of(struct node *node, const struct service *s, const struct flow *f)
{
	struct address none = {};
	__u64 hash = f->hash;
	__u32 place, service = f->service;
	void *ring;

	if (s->flags & SERVICE_BY_CLIENT)
		hash = flow_hash(node, &f->src, &none, 0, 0, 0);
	ring = bpf_map_lookup_elem(&rings, &service);
	place = row_of(hash);
	return ring ? bpf_map_lookup_elem(ring, &place) : NULL;
}

INLINE struct backend *backend_of(__u32 number)
{
	return bpf_map_lookup_elem(&backends, &number);
}

/* Who has a connection of a place that is not settled. */
INLINE __u32 unsettled(const struct flow *f, __u32 taker, __u32 settled)
{
	struct backend *b;
	__u32 *known, value;
	__u64 hash = f->hash; /* as a key, see serve */

	if (f->kind == KIND_SYN) {
		b = backend_of(taker);
		value = taker | (b ? b->life << 16 : 0);
		bpf_map_update_elem(&flows, &hash, &value, BPF_ANY);
		return taker;
	}
	known = bpf_map_lookup_elem(&flows, &hash);
	if (known) {
		value = *known;
		b = backend_of(value & 0xffff);
		if (b && b->life == value >> 16 && b->service == f->service && b->flags & BACKEND_KEEPS)
			return value & 0xffff;
	}
	b = backend_of(settled);
	return b && b->flags & BACKEND_KEEPS ? settled : taker;
}

/* All fragments of a packet go where the first goes, which has the ports. */
INLINE __u32 unsettled_part(const struct flow *f, __u32 taker, __u32 settled)
{
	__u32 number;

	if (f->later)
		return who_has_part(f->part);
	number = unsettled(f, taker, settled);
	remember_part(f->part, number);
	return number;
}

INLINE void count_traffic(__u32 number, const struct flow *f)
{
	struct traffic *t = bpf_map_lookup_elem(&traffic, &number);

	if (!t)
		return;
	t->packets++;
	t->bytes += f->length;
	t->connections += f->kind == KIND_SYN;
}

/* IPv4 or IPv6 round the packet; returns where its payload begins. */
INLINE void *write_outer(struct cursor *c, const struct backend *b, __u8 protocol, __u16 length,
			 __u32 label)
{
	struct ipv6hdr *ip6;
	__be32 *word;
	__u32 sum;

	if (is_ipv4(&b->address)) {
		word = take(c, sizeof(struct iphdr));
		if (!word)
			return NULL;
		word[0] = be32(0x45000000) | (__u32)be16(length) << 16;
		word[1] = be32(0x00004000);	/* never fragmented */
		word[3] = b->source.word[3];
		word[4] = b->address.word[3];
		sum = halves(word[0]) + halves(word[1]) + halves(word[3]) + halves(word[4]) +
		      halves(be32(OUTER_TTL << 24)) + (protocol << 8);
		sum = halves(sum);
		word[2] = be32(OUTER_TTL << 24) | (__u32)protocol << 8 |
			  (__u32)(__u16)~halves(sum) << 16;
		return c->at;
	}
	ip6 = take(c, sizeof(*ip6));
	if (!ip6)
		return NULL;
	word = (void *)ip6;
	word[0] = be32(0x60000000) | (be32(label) & be32(0xfffff));
	ip6->payload_len = be16(length - sizeof(*ip6));
	ip6->nexthdr = protocol;
	ip6->hop_limit = OUTER_TTL;
	*(struct address *)&ip6->saddr = b->source;
	*(struct address *)&ip6->daddr = b->address;
	return c->at;
}

/* What goes round a packet to a backend, in bytes. */
INLINE __u32 overhead(const struct backend *b, __u32 forward)
{
	__u32 size = is_ipv4(&b->address) ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);

	if (forward == FORWARD_L2)
		return 0;
	return forward == FORWARD_GUE ? size + sizeof(struct udphdr) + sizeof(struct gue) : size;
}

/* The way is not known: the kernel knows it, or finds it and sends the frame. */
INLINE int to_backend_by_kernel(struct xdp_md *ctx, struct ethhdr *eth, const struct backend *b,
				__u32 length, __u32 forward)
{
	const __u32 missed = forward == FORWARD_L2 ? REASON_NO_NEIGHBOUR : REASON_UNRESOLVED;
	struct scratch *scratch = this_scratch();
	struct bpf_fib_lookup *way;

	if (b->flags & BACKEND_BY_KERNEL || !scratch)
		return leave(missed);
	way = &scratch->way;
	*way = (struct bpf_fib_lookup){
		.family = is_ipv4(&b->address) ? AF_INET : AF_INET6,
		.tot_len = length,
		.ifindex = ctx->ingress_ifindex,
	};
	if (way->family == AF_INET) {
		way->ipv4_src = b->source.word[3];
		way->ipv4_dst = b->address.word[3];
	} else {
		__builtin_memcpy(way->ipv6_src, &b->source, sizeof(b->source));
		__builtin_memcpy(way->ipv6_dst, &b->address, sizeof(b->address));
	}
	switch (bpf_fib_lookup(ctx, way, sizeof(*way), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		__builtin_memcpy(eth->h_dest, way->dmac, sizeof(eth->h_dest));
		__builtin_memcpy(eth->h_source, way->smac, sizeof(eth->h_source));
		return sent(bpf_redirect(way->ifindex, 0), REASON_SERVED);
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return leave(REASON_NO_NEIGHBOUR);
	}
	return leave(missed);
}

INLINE int to_backend(struct xdp_md *ctx, const struct macs *arrived, const struct backend *b,
		      __be16 type, __u32 length, __u32 forward)
{
	const struct clock *clock = this_clock();
	struct cursor c = frame_of(ctx);
	struct ethhdr *eth = take(&c, sizeof(*eth));

	if (!eth)
		return leave(REASON_HEADROOM);
	eth->h_proto = type;
	if (unlikely(!clock || clock->now >= b->valid_until)) {
		*(struct macs *)eth = *arrived;
		return to_backend_by_kernel(ctx, eth, b, length, forward);
	}
	*(struct macs *)eth = b->macs;
	if (b->flags & BACKEND_BOUNCE && b->ifindex == ctx->ingress_ifindex)
		return sent(XDP_TX, REASON_SERVED);
	return sent(bpf_redirect(b->ifindex, 0), REASON_SERVED);
}

/* The packet goes on inside of another, or as it is. */
INLINE int forward_to(struct xdp_md *ctx, const struct flow *f, const struct backend *b,
		      __u32 forward)
{
	const int v4 = is_ipv4(&b->address);
	__be16 type = f->version == 4 ? be16(ETH_P_IP) : be16(ETH_P_IPV6);
	__u8 protocol = f->version == 4 ? IPPROTO_IPIP : IPPROTO_IPV6;
	__u32 size = overhead(b, forward), length = f->length + size;
	__u64 l3 = f->l3 & 0x1f;
	struct cursor c = frame_of(ctx);
	struct udphdr *udp;
	struct macs arrived, *macs;
	struct gue *gue;
	void *ip;

	macs = take(&c, sizeof(*macs));
	c = frame_of(ctx);
	skip(&c, l3, 0x1f);
	ip = take(&c, f->version == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	if (!macs || !ip || !is_whole(ctx, f->l3 + f->length))
		return leave(REASON_SHORT);
	if (!(f->version == 4 ? age4(ip) : age6(ip)))
		return leave(REASON_HOP_LIMIT);
	arrived = *macs;
	if ((size || l3 != sizeof(struct ethhdr)) &&
	    bpf_xdp_adjust_head(ctx, (int)l3 - (int)(sizeof(struct ethhdr) + size)))
		return leave(REASON_HEADROOM);
	if (forward == FORWARD_L2)
		return to_backend(ctx, &arrived, b, type, length, forward);

	c = frame_of(ctx);
	take(&c, sizeof(struct ethhdr));
	udp = write_outer(&c, b, forward == FORWARD_GUE ? IPPROTO_UDP : protocol, length, f->hash);
	if (!udp)
		return leave(REASON_HEADROOM);
	if (forward == FORWARD_GUE) {
		udp = take(&c, sizeof(*udp));
		gue = take(&c, sizeof(*gue));
		if (!udp || !gue)
			return leave(REASON_HEADROOM);
		*udp = (struct udphdr){
			.source = be16(SOURCE_PORTS | (f->hash & ~SOURCE_PORTS & 0xffff)),
			.dest = TUNNEL_PORT,
			.len = be16(f->length + sizeof(*udp) + sizeof(*gue)),
		};
		*gue = (struct gue){ .protocol = protocol };
	}
	return to_backend(ctx, &arrived, b, v4 ? be16(ETH_P_IP) : be16(ETH_P_IPV6), length, forward);
}

/* A packet to a service. Verified by itself: the steering's states end here. */
__attribute__((noinline)) int serve(struct xdp_md *ctx, struct flow *f)
{
	struct node *node = this_node();
	struct service *s;
	struct backend *b;
	__u32 number, service;
	__u64 *place;

	if (!f || !node)
		return XDP_DROP;
	service = f->service; /* kernels before 6.2 take no key from behind an argument */
	s = bpf_map_lookup_elem(&services, &service);
	place = s ? place_of(node, s, f) : NULL;
	if (!place || !*place)
		return leave(REASON_NO_BACKEND);
	number = *place & 0xffff;
	if (unlikely(*place >> 16) && f->protocol == IPPROTO_TCP)
		number = f->part ? unsettled_part(f, number, *place >> 16 & 0xffff) :
				   unsettled(f, number, *place >> 16 & 0xffff);
	b = backend_of(number);
	if (!b || !number)
		return leave(REASON_NO_BACKEND);
	if (unlikely(f->length + overhead(b, s->forward) > b->mtu))
		return tell_too_big(ctx, f, b->mtu - overhead(b, s->forward));
	count_traffic(number, f);
	if (unlikely(b->flags & BACKEND_HERE))
		return leave(REASON_SERVED_HERE);
	return forward_to(ctx, f, b, s->forward);
}
