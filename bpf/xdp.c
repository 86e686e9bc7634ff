//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A packet's way, top to bottom: what comes from a client is hashed to a row
 * and passed to the stack or sent to the row's owner; what comes from a peer is
 * taken out of its encapsulation, or sent on to the next owner.
 */
#include "service.h"
#include "settle.h"
#include "sight.h"

/* Who is asked, in this order: local indexes of peers, 0 from the end on. */
struct owners {
	__u32 first, second, third;
	__u32 asks;	/* PATH_ASKS, or 0 */
};

#define TUNNEL -2	/* beside STEER and the reasons: encapsulated to this node */

INLINE int steer(struct xdp_md *ctx, struct node *node);
INLINE int read_vip4(struct cursor *c, struct iphdr *ip, struct packet *p);
INLINE int read_vip6(struct cursor *c, struct ipv6hdr *ip, struct packet *p);
INLINE int is_tunnel4(const struct cursor *c, const struct node *node, const struct iphdr *ip,
		      struct packet *p);
INLINE int is_tunnel6(const struct cursor *c, const struct node *node, const struct ipv6hdr *ip,
		      struct packet *p);
INLINE int from_client(struct xdp_md *ctx, struct node *node, struct packet *p);
#define NOT_SERVED ~0ULL	/* no service and its flags */
INLINE __u64 served_by(const struct packet *p);
INLINE int to_service(struct xdp_md *ctx, const struct packet *p, __u64 hash, __u32 service);
INLINE struct owners owners_of(const struct node *node, const struct packet *p, __u64 hash,
			       __u32 flags);
INLINE int to_owner(struct xdp_md *ctx, struct node *node, struct packet *p, __u64 hash,
		    const struct owners *to, __u32 reason);
INLINE int too_big(struct xdp_md *ctx, const struct packet *p, __u32 mtu);
INLINE int write_hop(const struct node *node, struct cursor *c, __u32 index);
INLINE int from_peer(struct xdp_md *ctx, struct node *node, struct packet *p);
INLINE int check_outer(const struct node *node, const struct tunnel *tunnel, const __u32 *peer);
INLINE int answer_pulse(struct xdp_md *ctx, const struct node *node, const struct packet *p,
			const __u32 *peer);
INLINE int read_hop(const struct node *node, struct cursor *c, __u64 index, struct address *hop);
INLINE int read_inner(struct cursor *c, __u8 protocol, struct packet *p);
INLINE int to_stack(struct xdp_md *ctx, const struct packet *p, __u64 offset, __u32 reason);
INLINE int to_next_hop(struct xdp_md *ctx, struct node *node, struct packet *p, __u64 offset,
		       const struct address *next, __u32 length);
INLINE int send(struct xdp_md *ctx, struct node *node, const struct macs *arrived,
		const struct peer *to, __u32 length, __u32 reason);
INLINE int send_by_kernel(struct xdp_md *ctx, struct node *node, struct ethhdr *eth,
			  const struct peer *to, __u32 length, __u32 reason);

SEC("xdp.frags")
int steer_packet(struct xdp_md *ctx)
{
	struct node *node = this_node();
	__u32 way;

	if (!node)
		return XDP_PASS;	/* cannot be: an array has its first entry */
	if (unlikely(is_captured(node)))
		remember(ctx);
	way = steer(ctx, node);
	if (unlikely(VERDICT(way) == XDP_DROP || is_captured(node)))
		show(ctx, way);
	return VERDICT(way);
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
		if (ip)
			why = is_tunnel4(&c, node, ip, &p) ? TUNNEL : read_vip4(&c, ip, &p);
	} else if (type == be16(ETH_P_IPV6)) {
		ip6 = take(&c, sizeof(*ip6));
		if (ip6)
			why = is_tunnel6(&c, node, ip6, &p) ? TUNNEL : read_vip6(&c, ip6, &p);
	}
	if (why == TUNNEL)
		return from_peer(ctx, node, &p);
	if (why != STEER)
		return leave(why);
	if (unlikely(node->flags & NODE_GUARDED)) {
		why = guard(&p.src, p.kind);
		if (why)
			return why;
	}
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

/*
 * A wrong outer header to our port is no packet of anybody else: from_peer
 * drops it. It finds the sender as p->src, the packet's length as p->length, 0
 * for what cannot be ours.
 */
INLINE int is_tunnel4(const struct cursor *c, const struct node *node, const struct iphdr *ip,
		      struct packet *p)
{
	const struct udphdr *udp = c->at;

	if (ip->daddr != node->address.word[3] || ip->protocol != IPPROTO_UDP ||
	    (void *)(udp + 1) > c->end || udp->dest != TUNNEL_PORT || ip->ihl != 5)
		return 0;
	p->src = mapped(ip->saddr);
	p->length = ip->frag_off & be16(0x3fff) ? 0 : be16(ip->tot_len);
	return 1;
}

INLINE int is_tunnel6(const struct cursor *c, const struct node *node, const struct ipv6hdr *ip,
		      struct packet *p)
{
	const struct udphdr *udp = c->at;

	if (ip->nexthdr != IPPROTO_UDP || !is_address(&ip->daddr, &node->address) ||
	    (void *)(udp + 1) > c->end || udp->dest != TUNNEL_PORT)
		return 0;
	p->src = address_of(&ip->saddr);
	p->length = be16(ip->payload_len) + sizeof(*ip);
	return 1;
}

/*
 * First arrival. The first owner takes the packet, unless it may belong to a
 * connection that an earlier owner holds.
 */
INLINE int from_client(struct xdp_md *ctx, struct node *node, struct packet *p)
{
	__u64 served = served_by(p);
	__u32 service = served, flags = served >> 32, reason = REASON_SENT;
	struct owners to;
	__u64 hash;
	int hold;

	if (served == NOT_SERVED)
		return leave(REASON_NO_PORT);
	hash = flow_hash(node, &p->src, &p->dst, p->sport, p->dport, p->protocol);
	if (service)
		return to_service(ctx, p, hash, service);
	to = owners_of(node, p, hash, flags);
	if (to.first == SELF) {
		hold = unlikely(node->unsettled_until) && p->kind == KIND_SEGMENT &&
		       is_unsettled(node, 0);
		if (likely(!to.second && !hold))
			return leave(flags & SERVED_HERE ? REASON_HERE : REASON_LOCAL);
		if (has_socket(ctx, p))
			return leave(REASON_FOUND);
		if (!to.second || !may_miss(node))
			return leave(hold ? REASON_HELD : REASON_MISS_LIMIT);
		to = (struct owners){ to.second, to.third, 0, 0 };
		reason = REASON_MISSED;
	}
	if (!to.first)
		return leave(node->flags & NODE_SERVES ? REASON_ALONE : REASON_NO_OWNER);
	return to_owner(ctx, node, p, hash, &to, reason);
}

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

/* A SYN begins anew: only the current owner, once the row is no longer young. */
INLINE struct owners owners_of(const struct node *node, const struct packet *p, __u64 hash,
			       __u32 flags)
{
	__u32 row = row_of(hash);
	__u64 *owners = bpf_map_lookup_elem(&rows, &row);
	int begins = p->kind == KIND_SYN || p->kind == KIND_DATAGRAM;
	struct owners to = {};

	if (!owners)
		return to;
	to.first = *owners & 0xffff;
	if (likely(!(*owners >> 16) && !flags))
		return to;
	if (unlikely(flags & SERVED_HERE && begins))
		return (struct owners){ SELF, 0, 0, 0 };
	to.second = *owners >> 16 & 0xffff;
	if (begins) {
		if (p->kind == KIND_SYN && is_young(node, to.second))
			return (struct owners){ to.second, to.first, 0, PATH_ASKS };
		to.second = 0;
		return to;
	}
	to.third = *owners >> 32 & 0xffff;
	if (!to.first)
		to = (struct owners){ to.second, to.third, 0, 0 };
	if (unlikely(flags) && to.first != SELF)
		to = (struct owners){ SELF, to.first,
				      to.second == SELF ? to.third : to.second, 0 };
	return to;
}

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
		return too_big(ctx, p, first->mtu - longest_overhead(node));
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
		.protocol = p->dst.word[2] == MAPPED ? IPPROTO_IPIP : IPPROTO_IPV6,
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

/* There is no room for a tunnel round the packet: the client is told what there is room for. */
INLINE int too_big(struct xdp_md *ctx, const struct packet *p, __u32 mtu)
{
	struct scratch *scratch = this_scratch();

	if (!scratch)
		return XDP_DROP;	/* cannot be */
	scratch->flow = (struct flow){
		.l3 = p->l3, .length = p->length, .kind = p->kind,
		.version = p->dst.word[2] == MAPPED ? 4 : 6,
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
	*type = p->dst.word[2] == MAPPED ? be16(ETH_P_IP) : be16(ETH_P_IPV6);
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
	if (length > to->mtu)
		return leave(REASON_TOO_BIG);
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
	if (unlikely(!clock || clock->now >= to->valid_until)) {
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

/*
 * Answers a peer that asks whether this node lives: the question goes back the
 * way it came, with our view and the age of our workers' pulse. Other messages,
 * answers among them, end here: who asked by a socket gets them there.
 */
INLINE int answer_pulse(struct xdp_md *ctx, const struct node *node, const struct packet *p,
			const __u32 *index)
{
	const struct clock *clock = this_clock();
	__u32 zero = 0, by = *index;
	__u16 length = node->outer_ip + sizeof(struct tunnel) + sizeof(struct pulse_message);
	struct pulse *beat = bpf_map_lookup_elem(&pulse, &zero);
	const struct peer *peer = bpf_map_lookup_elem(&peers, &by);
	struct pulse_message *message;
	struct cursor c = frame_of(ctx);
	struct macs *macs = take(&c, sizeof(*macs));
	struct tunnel *tunnel;
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	__be16 port;

	if (!macs || !clock || !beat || !peer || p->length != length)
		return leave(REASON_BAD_TUNNEL);
	turn_round(macs);
	c = frame_of(ctx);
	skip(&c, p->l3 + outer_size(node), 0x7f);
	tunnel = take(&c, sizeof(*tunnel));
	message = take(&c, sizeof(*message));
	if (!tunnel || !message || tunnel->gue.protocol != PULSE_QUESTION)
		return leave(REASON_BAD_TUNNEL);
	message->age = be32(beat->at ? (__u32)((clock->now - beat->at) / 1000000) : NEVER);
	tunnel->gue.protocol = PULSE_ANSWER;
	tunnel->path.view = node->view;
	tunnel->path.tag = node->tag[0];
	port = tunnel->udp.source;
	tunnel->udp.source = tunnel->udp.dest;
	tunnel->udp.dest = port;
	tunnel->udp.len = be16(sizeof(*tunnel) + sizeof(*message));
	tunnel->udp.check = 0;
	c = frame_of(ctx);
	skip(&c, p->l3, 0x1f);
	if (likely(node->outer_ip == sizeof(struct iphdr))) {
		ip = take(&c, sizeof(*ip));
		if (!ip)
			return leave(REASON_BAD_TUNNEL);
		write_outer_ip(ip, node->address.word[3], p->src.word[3], length);
	} else {
		ip6 = take(&c, sizeof(*ip6));
		if (!ip6)
			return leave(REASON_BAD_TUNNEL);
		write_outer_ip6(ip6, &node->address, &p->src, length);
	}
	if (peer->flags & PEER_BOUNCE && peer->ifindex == ctx->ingress_ifindex)
		return sent(XDP_TX, REASON_PULSE);
	return sent(bpf_redirect(ctx->ingress_ifindex, 0), REASON_PULSE);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
