//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A packet's way, top to bottom: what comes from a client is hashed to a row
 * and passed to the stack or sent to the row's owner; what comes from a peer is
 * taken out of its encapsulation, or sent on to the next owner.
 */
#include "service.h"

/* The owners of a row, newest first: local indexes of peers, 0 from the end on. */
struct owners {
	__u32 first, second, third;
};

INLINE int steer(struct xdp_md *ctx, struct node *node);
INLINE int read_vip4(struct cursor *c, struct iphdr *ip, struct packet *p);
INLINE int read_vip6(struct cursor *c, struct ipv6hdr *ip, struct packet *p);
INLINE int is_tunnel(const struct cursor *c, const struct node *node, const struct iphdr *ip);
INLINE int from_client(struct xdp_md *ctx, struct node *node, struct packet *p);
#define NOT_SERVED 0xffffffff	/* no number of a service */
INLINE __u32 served_by(const struct packet *p);
INLINE int to_service(struct xdp_md *ctx, const struct packet *p, __u64 hash, __u32 service);
INLINE struct owners owners_of(const struct packet *p, __u64 hash);
INLINE int has_socket(struct xdp_md *ctx, const struct packet *p);
INLINE int to_owner(struct xdp_md *ctx, struct node *node, struct packet *p, __u64 hash,
		    struct owners to, __u32 reason);
INLINE int write_hop(struct cursor *c, __u32 index);
INLINE int from_peer(struct xdp_md *ctx, struct node *node, struct cursor *c, struct iphdr *ip,
		     struct packet *p);
INLINE int check_outer(const struct node *node, const struct outer *outer);
INLINE int read_inner(struct cursor *c, struct outer *outer, struct packet *p);
INLINE int to_stack(struct xdp_md *ctx, const struct packet *p, __u32 offset, __u32 reason);
INLINE int to_next_hop(struct xdp_md *ctx, struct node *node, struct outer *outer,
		       struct packet *p, __u32 offset, __be32 next);
INLINE int send(struct xdp_md *ctx, struct node *node, const struct macs *arrived,
		const struct peer *to, __u32 length, __u32 reason);
INLINE int send_by_kernel(struct xdp_md *ctx, struct node *node, struct ethhdr *eth,
			  const struct peer *to, __u32 length, __u32 reason);

SEC("xdp.frags")
int steer_packet(struct xdp_md *ctx)
{
	struct node *node = this_node();

	if (!node)
		return XDP_PASS;	/* cannot be: an array has its first entry */
	return VERDICT(steer(ctx, node));
}

INLINE int steer(struct xdp_md *ctx, struct node *node)
{
	struct cursor c = frame_of(ctx);
	struct packet p;
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	int why = REASON_NOT_IP;
	__be16 type;

	p.tcp = NULL;
	in_memory(&p);
	type = take_ethernet(&c, &p);
	if (likely(type == be16(ETH_P_IP))) {
		ip = take(&c, sizeof(*ip));
		if (ip && is_tunnel(&c, node, ip))
			return from_peer(ctx, node, &c, ip, &p);
		if (ip)
			why = read_vip4(&c, ip, &p);
	} else if (type == be16(ETH_P_IPV6)) {
		ip6 = take(&c, sizeof(*ip6));
		if (ip6)
			why = read_vip6(&c, ip6, &p);
	}
	if (why != STEER)
		return leave(why);
	return from_client(ctx, node, &p);
}

/* The address alone comes first: what is not for a VIP costs one lookup. */
INLINE int read_vip4(struct cursor *c, struct iphdr *ip, struct packet *p)
{
	int why;

	p->dst = mapped(ip->daddr);
	p->vip = find_vip(&p->dst);
	if (!p->vip)
		return REASON_NOT_VIP;
	p->src = mapped(ip->saddr);
	why = read_ipv4(c, ip, p);
	if (why != STEER)
		return why;
	if (likely(p->protocol == IPPROTO_TCP))
		return read_tcp(c, p);
	if (p->protocol == IPPROTO_UDP)
		return read_udp(c, p);
	return p->protocol == IPPROTO_ICMP ? read_icmp4(c, p) : REASON_NO_PORT;
}

INLINE int read_vip6(struct cursor *c, struct ipv6hdr *ip, struct packet *p)
{
	int why;

	p->dst = address_of(&ip->daddr);
	p->vip = find_vip(&p->dst);
	if (!p->vip)
		return REASON_NOT_VIP;
	p->src = address_of(&ip->saddr);
	why = read_ipv6(c, ip, p);
	if (why != STEER)
		return why;
	if (likely(p->protocol == IPPROTO_TCP))
		return read_tcp(c, p);
	if (p->protocol == IPPROTO_UDP)
		return read_udp(c, p);
	return p->protocol == IPPROTO_ICMPV6 ? read_icmp6(c, p) : REASON_NO_PORT;
}

/* A wrong outer header to our port is no packet of anybody else: from_peer drops it. */
INLINE int is_tunnel(const struct cursor *c, const struct node *node, const struct iphdr *ip)
{
	const struct udphdr *udp = c->at;

	return ip->daddr == node->address.word[3] && ip->protocol == IPPROTO_UDP && ip->ihl == 5 &&
	       (void *)(udp + 1) <= c->end && udp->dest == TUNNEL_PORT;
}

/*
 * First arrival. The first owner takes the packet, unless it may belong to a
 * connection that an earlier owner holds.
 */
INLINE int from_client(struct xdp_md *ctx, struct node *node, struct packet *p)
{
	__u32 service = served_by(p), reason = REASON_SENT;
	struct owners to;
	__u64 hash;

	if (service == NOT_SERVED)
		return leave(REASON_NO_PORT);
	hash = flow_hash(node, &p->src, &p->dst, p->sport, p->dport, p->protocol);
	if (service)
		return to_service(ctx, p, hash, service);
	to = owners_of(p, hash);
	if (to.first == SELF) {
		if (!to.second)
			return leave(REASON_LOCAL);
		if (has_socket(ctx, p))
			return leave(REASON_FOUND);
		to = (struct owners){ to.second, to.third, 0 };
		reason = REASON_MISSED;
	}
	if (!to.first)
		return leave(node->flags & NODE_SERVES ? REASON_ALONE : REASON_NO_OWNER);
	return to_owner(ctx, node, p, hash, to, reason);
}

/* The number of the service at the packet's port; 0: the workers. */
INLINE __u32 served_by(const struct packet *p)
{
	for (__u32 i = 0; i < VIP_PORTS && i < p->vip->ports; i++) {
		const struct served *s = &p->vip->port[i];

		if (s->protocol == p->protocol && (s->port == p->dport || !s->port))
			return s->service;
	}
	return NOT_SERVED;
}

INLINE int to_service(struct xdp_md *ctx, const struct packet *p, __u64 hash, __u32 service)
{
	struct scratch *scratch = this_scratch();

	if (!scratch)
		return XDP_DROP;	/* cannot be */
	scratch->flow = (struct flow){
		.src = p->src, .hash = hash, .service = service, .l3 = p->l3, .length = p->length,
		.kind = p->kind, .protocol = p->protocol,
		.version = p->dst.word[2] == MAPPED ? 4 : 6,
	};

	return serve(ctx, &scratch->flow);
}

/* A SYN begins anew: only the current owner. Rules for young rows go here. */
INLINE struct owners owners_of(const struct packet *p, __u64 hash)
{
	__u32 row = row_of(hash);
	__u64 *owners = bpf_map_lookup_elem(&rows, &row);
	struct owners to = {};

	if (!owners)
		return to;
	to.first = *owners & 0xffff;
	if (p->kind == KIND_SYN || p->kind == KIND_DATAGRAM)
		return to;
	to.second = *owners >> 16 & 0xffff;
	to.third = *owners >> 32 & 0xffff;
	if (!to.first)
		to = (struct owners){ to.second, to.third, 0 };
	return to;
}

/*
 * Whether a segment belongs to the connection that rests here in TIME_WAIT: it
 * repeats what was received. A newer connection of the same addresses and ports
 * began beyond that, and may live at an earlier owner.
 */
INLINE int is_repeated(struct bpf_sock *sk, const struct tcphdr *tcp)
{
	__u32 next = RCV_NXT / sizeof(__u32);
	struct scratch *s = this_scratch();

	if (!s || next >= SOCK_COMMON / sizeof(__u32) ||
	    bpf_probe_read_kernel(s->common, sizeof(s->common), sk))
		return 1;
	return s->common[next] - __builtin_bswap32(tcp->seq) < LATEST;
}

/*
 * Whether this node's stack knows the flow: any socket but a listening one and
 * one in TIME_WAIT for another connection, or a listening one that sent the SYN
 * cookie which the segment acknowledges.
 */
INLINE int has_socket(struct xdp_md *ctx, const struct packet *p)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	__u32 size;
	int found;

	if (p->protocol != IPPROTO_TCP)
		return 1;
	if (p->dst.word[2] == MAPPED) {
		size = sizeof(tuple.ipv4);
		tuple.ipv4.saddr = p->src.word[3];
		tuple.ipv4.daddr = p->dst.word[3];
		tuple.ipv4.sport = p->sport;
		tuple.ipv4.dport = p->dport;
	} else {
		size = sizeof(tuple.ipv6);
		__builtin_memcpy(tuple.ipv6.saddr, &p->src, sizeof(p->src));
		__builtin_memcpy(tuple.ipv6.daddr, &p->dst, sizeof(p->dst));
		tuple.ipv6.sport = p->sport;
		tuple.ipv6.dport = p->dport;
	}
	sk = bpf_skc_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return 0;
	found = sk->state != BPF_TCP_LISTEN;
	if (sk->state == BPF_TCP_TIME_WAIT && p->tcp)
		found = is_repeated(sk, p->tcp);
	if (sk->state == BPF_TCP_LISTEN && p->tcp)
		found = !bpf_tcp_check_syncookie(sk, p->ip, p->ip_size, p->tcp, sizeof(*p->tcp));
	bpf_sk_release(sk);
	return found;
}

/* Puts the packet into a tunnel to the first of the owners. */
INLINE int to_owner(struct xdp_md *ctx, struct node *node, struct packet *p, __u64 hash,
		    struct owners to, __u32 reason)
{
	const struct peer *first = bpf_map_lookup_elem(&peers, &to.first);
	__u32 more = !!to.second + !!to.third;
	__u32 size = sizeof(struct outer) + more * sizeof(__be32);
	__u32 length = p->length + size;
	struct macs arrived;
	struct outer *outer;
	struct cursor c;

	if (!first || !(node->flags & NODE_TUNNELS))
		return leave(REASON_NO_OWNER);
	if (length > first->mtu)	/* the answer to the client goes here */
		return leave(REASON_TOO_BIG);
	if (!is_whole(ctx, p->l3 + p->length))
		return leave(REASON_SHORT);
	if (!age(p->ip))
		return leave(REASON_HOP_LIMIT);
	arrived = *p->macs;
	if (bpf_xdp_adjust_head(ctx, (int)p->l3 - (int)(sizeof(struct ethhdr) + size)))
		return leave(REASON_HEADROOM);

	c = frame_of(ctx);
	take(&c, sizeof(struct ethhdr));
	outer = take(&c, sizeof(*outer));
	if (!outer)
		return leave(REASON_HEADROOM);
	write_outer_ip(&outer->ip, node->address.word[3], first->address.word[3], length);
	outer->udp = (struct udphdr){
		.source = be16(SOURCE_PORTS | (hash & ~SOURCE_PORTS & 0xffff)),
		.dest = TUNNEL_PORT,
		.len = be16(length - sizeof(outer->ip)),
	};
	outer->gue = (struct gue){
		.words = PATH_WORDS + more,
		.protocol = p->dst.word[2] == MAPPED ? IPPROTO_IPIP : IPPROTO_IPV6,
	};
	outer->path = (struct path){
		.version = PATH_VERSION,
		.place = (1 + more) << 4,
		.view = node->view,
		.tag = node->tag[0],
	};
	if (more && !(write_hop(&c, to.second) && (!to.third || write_hop(&c, to.third))))
		return leave(REASON_HEADROOM);
	return send(ctx, node, &arrived, first, length, reason);
}

INLINE int write_hop(struct cursor *c, __u32 index)
{
	const struct peer *peer = bpf_map_lookup_elem(&peers, &index);
	__be32 *hop = take(c, sizeof(*hop));

	if (!peer || !hop)
		return 0;
	*hop = peer->address.word[3];
	return 1;
}

/* At a hop. The last one takes the packet, the others do if they know the flow. */
INLINE int from_peer(struct xdp_md *ctx, struct node *node, struct cursor *c, struct iphdr *ip,
		     struct packet *p)
{
	struct outer *outer = (void *)ip;
	__u32 hops, index, offset = sizeof(*outer);
	__be32 *hop, next = 0;
	int why;

	if (!take(c, sizeof(*outer) - sizeof(*ip)))
		return leave(REASON_BAD_TUNNEL);
	why = check_outer(node, outer);
	if (why != STEER)
		return leave(why);
	hops = outer->path.place >> 4;
	index = outer->path.place & 0xf;
	if (hops > 1) {
		hop = take(c, sizeof(*hop));
		if (!hop)
			return leave(REASON_BAD_TUNNEL);
		next = *hop;
		offset += sizeof(*hop);
	}
	if (hops > 2) {
		hop = take(c, sizeof(*hop));
		if (!hop)
			return leave(REASON_BAD_TUNNEL);
		next = index == 0 ? next : *hop;
		offset += sizeof(*hop);
	}
	why = read_inner(c, outer, p);
	if (why != STEER)
		return leave(DROPS >> why & 1 ? why : REASON_BAD_INNER);
	if (be16(outer->ip.tot_len) != p->length + offset)
		return leave(REASON_BAD_TUNNEL);
	if (hops == 1 || p->kind == KIND_SYN)
		return to_stack(ctx, p, offset, REASON_RECEIVED);
	if (index + 1 == hops)	/* a miss is held back here while the view is unsettled */
		return to_stack(ctx, p, offset, REASON_LAST_HOP);
	if (has_socket(ctx, p))
		return to_stack(ctx, p, offset, REASON_FOUND);
	return to_next_hop(ctx, node, outer, p, offset, next);
}

/* From a peer, in the cluster's key, and what we would have written ourselves. */
INLINE int check_outer(const struct node *node, const struct outer *outer)
{
	struct address from = mapped(outer->ip.saddr);
	__u32 hops = outer->path.place >> 4, index = outer->path.place & 0xf;
	const __u32 *peer;

	if (outer->path.version != PATH_VERSION || outer->gue.flags ||
	    outer->ip.frag_off & be16(0x3fff) || hops < 1 || hops > HOPS || index >= hops ||
	    outer->gue.words != PATH_WORDS + hops - 1)
		return REASON_BAD_TUNNEL;
	if (!(node->flags & NODE_TUNNELS) ||
	    (outer->path.tag != node->tag[0] && outer->path.tag != node->tag[1]))
		return REASON_BAD_TAG;
	peer = bpf_map_lookup_elem(&peer_index, &from);
	return peer && *peer != SELF ? STEER : REASON_STRANGER;
}

INLINE int read_inner(struct cursor *c, struct outer *outer, struct packet *p)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip;

	if (outer->gue.protocol == IPPROTO_IPIP) {
		ip = take(c, sizeof(*ip));
		return ip ? read_vip4(c, ip, p) : REASON_SHORT;
	}
	if (outer->gue.protocol == IPPROTO_IPV6) {
		ip6 = take(c, sizeof(*ip6));
		return ip6 ? read_vip6(c, ip6, p) : REASON_SHORT;
	}
	return REASON_BAD_TUNNEL;
}

/* Takes the outer headers away: Ethernet and its tags move up to the packet. */
INLINE int to_stack(struct xdp_md *ctx, const struct packet *p, __u32 offset, __u32 reason)
{
	const struct vlan_header *from = (void *)p->macs;
	struct vlan_header *to = p->ip - p->l3;
	__be16 *type = p->ip - sizeof(*type);

	to->macs = from->macs;
	if (p->l3 > sizeof(struct ethhdr))
		to->tag[0] = from->tag[0];
	if (p->l3 > sizeof(struct ethhdr) + sizeof(struct vlan))
		to->tag[1] = from->tag[1];
	*type = p->dst.word[2] == MAPPED ? be16(ETH_P_IP) : be16(ETH_P_IPV6);
	if (bpf_xdp_adjust_head(ctx, offset))
		return leave(REASON_HEADROOM);
	return leave(reason);
}

/* Sends the packet on in its tunnel, with the next of its hops as destination. */
INLINE int to_next_hop(struct xdp_md *ctx, struct node *node, struct outer *outer,
		       struct packet *p, __u32 offset, __be32 next)
{
	struct address address = mapped(next);
	__u32 *index = bpf_map_lookup_elem(&peer_index, &address);
	__u32 length = be16(outer->ip.tot_len);
	const struct peer *to;
	struct macs arrived;

	if (!index)
		return leave(REASON_UNKNOWN_HOP);
	if (*index == SELF)	/* a list that somebody else made */
		return to_stack(ctx, p, offset, REASON_LAST_HOP);
	to = bpf_map_lookup_elem(&peers, index);
	if (!to)
		return leave(REASON_UNKNOWN_HOP);
	if (length > to->mtu)
		return leave(REASON_TOO_BIG);
	if (!is_whole(ctx, p->l3 + length))
		return leave(REASON_SHORT);
	if (!age(p->ip))
		return leave(REASON_HOP_LIMIT);
	outer->path.place++;
	outer->udp.check = 0;
	write_outer_ip(&outer->ip, node->address.word[3], next, length);
	arrived = *p->macs;
	if (p->l3 != sizeof(struct ethhdr) &&
	    bpf_xdp_adjust_head(ctx, p->l3 - sizeof(struct ethhdr)))
		return leave(REASON_HEADROOM);
	return send(ctx, node, &arrived, to, length, REASON_MISSED);
}

/* Addresses the frame by what user space knows of the way to the peer. */
INLINE int send(struct xdp_md *ctx, struct node *node, const struct macs *arrived,
		const struct peer *to, __u32 length, __u32 reason)
{
	const struct clock *clock = this_clock();
	struct cursor c = frame_of(ctx);
	struct ethhdr *eth = take(&c, sizeof(*eth));

	if (!eth)
		return leave(REASON_HEADROOM);
	if (unlikely(!clock || clock->now >= to->valid_until)) {
		*(struct macs *)eth = *arrived;
		eth->h_proto = be16(ETH_P_IP);
		return send_by_kernel(ctx, node, eth, to, length, reason);
	}
	*(struct macs *)eth = to->macs;
	eth->h_proto = be16(ETH_P_IP);
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
		.family = AF_INET,
		.l4_protocol = IPPROTO_UDP,
		.tot_len = length,
		.ifindex = ctx->ingress_ifindex,
		.ipv4_src = node->address.word[3],
		.ipv4_dst = to->address.word[3],
	};

	if (to->flags & PEER_BY_KERNEL)
		return leave(REASON_UNRESOLVED);
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

char LICENSE[] SEC("license") = "Dual BSD/GPL";
