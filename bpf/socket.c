//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which listening socket takes a new connection: one of the live slots of its
 * bind, chosen by the flow's hash. It runs for connections that no socket has
 * yet; also, without a packet, inside bpf_skc_lookup_tcp: no side effects but
 * a counter of what must not happen.
 */
#include "hash.h"

#define TRIES 8	/* slots that are asked when the chosen one's socket is gone */

INLINE struct address any_address(int family, __u32 ip4, const __u32 *ip6)
{
	/* Else clang makes one load of two, by a computed pointer: refused. */
	asm volatile("" : "+r"(ip4));
	if (family == AF_INET)
		return mapped(ip4);
	return (struct address){ { ip6[0], ip6[1], ip6[2], ip6[3] } };
}

/* The most specific bind: the address itself, any of IPv4, any at all. */
INLINE struct bind *find_bind(const struct bpf_sk_lookup *ctx, const struct address *local)
{
	struct bind_key key = {
		.address = *local,
		.port = ctx->local_port,
		.protocol = ctx->protocol,
	};
	struct bind *bind = bpf_map_lookup_elem(&binds, &key);

	if (!bind && ctx->family == AF_INET) {
		key.address = mapped(0);
		bind = bpf_map_lookup_elem(&binds, &key);
	}
	if (bind)
		return bind;
	key.address = (struct address){};
	return bpf_map_lookup_elem(&binds, &key);
}

SEC("sk_lookup")
int steer_socket(struct bpf_sk_lookup *ctx)
{
	struct address local = any_address(ctx->family, ctx->local_ip4, ctx->local_ip6);
	struct address remote = any_address(ctx->family, ctx->remote_ip4, ctx->remote_ip6);
	struct bind *bind = find_bind(ctx, &local);
	struct node *node = this_node();
	struct bpf_sock *sk;
	__u64 hash;
	__u32 slot;
	long err;

	if (!bind || !node)
		return SK_PASS;	/* not ours */
	hash = flow_hash(node, &remote, &local, ctx->remote_port, be16(ctx->local_port),
			 ctx->protocol);
	slot = slot_of(hash, bind->live);
	for (int i = 0; i < TRIES && i < bind->live; i++, slot++) {
		__u32 key;

		if (slot >= bind->live)
			slot = 0;
		key = bind->slot[slot & (BIND_SLOTS - 1)];
		sk = bpf_map_lookup_elem(&slots, &key);
		if (!sk)
			continue;
		err = bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_NO_REUSEPORT);
		bpf_sk_release(sk);
		if (!err)
			return SK_PASS;
	}
	count(REASON_NO_SLOT);
	return SK_DROP;
}
