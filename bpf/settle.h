/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a node asks itself about a packet that may belong to an earlier owner:
 * does my stack know it, is the row young, are the node sets settled, may one
 * more be sent on.
 */
#pragma once

#include "encap.h"
#include "fragment.h"

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
 * Whether the segment lies near what the socket expects next. Else it is of a
 * newer connection, and this socket's client is long gone: it went while this
 * node could not be reached.
 */
INLINE int is_expected(struct bpf_sock *sk, const struct tcphdr *tcp)
{
	struct tcp_sock *known = bpf_skc_to_tcp_sock(sk);
	__u32 near;

	if (!known)
		return 1;	/* half-open */
	near = LATEST + known->rcv_wnd;
	return __builtin_bswap32(tcp->seq) - known->rcv_nxt + near < 2 * near;
}

/*
 * Whether this node's stack knows the flow: any socket that expects the segment,
 * but a listening one, or a listening one that sent the SYN cookie which the
 * segment acknowledges. A SYN is known if it opened the half-open connection here
 * before.
 */
INLINE int has_socket(struct xdp_md *ctx, const struct packet *p)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	__u32 size;
	int found;

	if (p->protocol != IPPROTO_TCP)
		return 1;
	if (unlikely(p->part) && !p->tcp)
		return who_has_part(p->part) == SELF;
	if (ip_version(p) == 4) {
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
	if (!sk) {
		found_part(p, 0);
		return 0;
	}
	found = sk->state != BPF_TCP_LISTEN;
	if (unlikely(p->kind == KIND_SYN))
		found = sk->state == BPF_TCP_NEW_SYN_RECV;
	else if (sk->state == BPF_TCP_TIME_WAIT && p->tcp)
		found = is_repeated(sk, p->tcp);
	else if (sk->state == BPF_TCP_LISTEN && p->tcp)
		found = !bpf_tcp_check_syncookie(sk, p->ip, p->ip_size, p->tcp, sizeof(*p->tcp));
	else if (found && p->tcp)
		found = is_expected(sk, p->tcp);
	bpf_sk_release(sk);
	found_part(p, found);
	return found;
}

/*
 * Whether the owner before may hold a SYN's connection half-open, and is to be
 * asked first: a second answer, of the new owner, would have the client reset
 * the connection that it has with the old one.
 */
INLINE int is_young(const struct node *node, __u32 before)
{
	const struct clock *clock;
	const struct peer *peer;

	if (likely(!node->young_until) || !before)
		return 0;
	clock = this_clock();
	peer = bpf_map_lookup_elem(&peers, &before);
	return clock && clock->now < node->young_until && peer && !(peer->flags & PEER_DOWN);
}

/*
 * Whether the tables of the nodes may not agree yet. A segment without a socket
 * is then dropped, not reset: TCP repeats it when they do. differs: the packet
 * carries another view than ours.
 */
INLINE int is_unsettled(const struct node *node, int differs)
{
	const struct clock *clock = this_clock();
	struct doubt *d;
	__u32 zero = 0;

	if (!clock)
		return 0;
	if (clock->now < node->unsettled_until)
		return 1;
	d = differs ? bpf_map_lookup_elem(&doubt, &zero) : NULL;
	if (!d)
		return 0;
	if (d->view != node->view || clock->now - d->last > DOUBT_FORGOTTEN) {
		d->since = clock->now;
		d->view = node->view;
	}
	d->last = clock->now;
	return clock->now - d->since < DOUBT;
}

/* Takes one from this CPU's allowance: a scan must not make the nodes flood each other. */
INLINE int may_miss(const struct node *node)
{
	const struct clock *clock = this_clock();
	struct allowance *a;
	__u32 zero = 0;

	a = bpf_map_lookup_elem(&allowance, &zero);
	if (!node->misses || !clock || !a)
		return 1;
	if (a->tick != clock->now) {
		a->tick = clock->now;
		a->left = node->misses;
	}
	if (!a->left)
		return 0;
	a->left--;
	return 1;
}
