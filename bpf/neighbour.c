//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Frames to a peer or a backend whose MAC address XDP does not know. The kernel
 * asks for it and sends them then; nothing needs to be a router for that.
 */
#include "service.h"

INLINE int same_address(const struct address *a, const struct address *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

/* A packet that we encapsulated for a backend leaves by the interface to it. */
INLINE int find_backend(const struct address *from, const struct address *to, __u8 protocol)
{
	__u32 *number = bpf_map_lookup_elem(&backend_index, to);
	struct backend *b = number ? backend_of(*number) : NULL;

	if (!b || !b->ifindex || !same_address(from, &b->source))
		return TCX_NEXT;
	if (protocol != IPPROTO_IPIP && protocol != IPPROTO_IPV6 && protocol != IPPROTO_UDP)
		return TCX_NEXT;
	return bpf_redirect_neigh(b->ifindex, NULL, 0, 0);
}

INLINE int find_peer(struct cursor *c, const struct address *to)
{
	__u32 *index = bpf_map_lookup_elem(&peer_index, to);
	struct peer *peer = index ? bpf_map_lookup_elem(&peers, index) : NULL;
	struct udphdr *udp = take(c, sizeof(*udp));

	if (!udp || udp->dest != TUNNEL_PORT)
		return TCX_NEXT;
	if (!peer || !peer->ifindex || peer->vlan)	/* a VLAN's parent is no way of the kernel's */
		return TCX_NEXT;
	return bpf_redirect_neigh(peer->ifindex, NULL, 0, 0);
}

SEC("tcx/ingress")
int find_neighbour(struct __sk_buff *skb)
{
	struct cursor c = { (void *)(long)skb->data, (void *)(long)skb->data_end };
	struct node *node = this_node();
	struct address from, to;
	struct ipv6hdr *ip6;
	struct iphdr *ip;
	__u8 protocol;

	if (!node || !take(&c, sizeof(struct ethhdr)))
		return TCX_NEXT;
	if (skb->protocol == be16(ETH_P_IP)) {
		ip = take(&c, sizeof(*ip));
		if (!ip)
			return TCX_NEXT;
		from = mapped(ip->saddr);
		to = mapped(ip->daddr);
		protocol = ip->protocol;
	} else {
		ip6 = take(&c, sizeof(*ip6));
		if (!ip6 || skb->protocol != be16(ETH_P_IPV6))
			return TCX_NEXT;
		from = address_of(&ip6->saddr);
		to = address_of(&ip6->daddr);
		protocol = ip6->nexthdr;
	}
	if (protocol == IPPROTO_UDP && same_address(&from, &node->address) &&
	    bpf_map_lookup_elem(&peer_index, &to))
		return find_peer(&c, &to);
	return find_backend(&from, &to, protocol);
}
