//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Frames to a peer whose MAC address XDP does not know. The kernel asks for it
 * and sends them then; nothing needs to be a router for that.
 */
#include "encap.h"

SEC("tcx/ingress")
int find_neighbour(struct __sk_buff *skb)
{
	struct cursor c = { (void *)(long)skb->data, (void *)(long)skb->data_end };
	struct node *node = this_node();
	struct ipv6hdr *ip6;
	struct address to;
	struct iphdr *ip;
	struct udphdr *udp;
	struct peer *peer;
	__u32 *index;

	if (!node || skb->protocol != outer_type(node) || !take(&c, sizeof(struct ethhdr)))
		return TCX_NEXT;
	if (skb->protocol == be16(ETH_P_IP)) {
		ip = take(&c, sizeof(*ip));
		if (!ip || ip->saddr != node->address.word[3] || ip->protocol != IPPROTO_UDP)
			return TCX_NEXT;
		to = mapped(ip->daddr);
	} else {
		ip6 = take(&c, sizeof(*ip6));
		if (!ip6 || !is_address(&ip6->saddr, &node->address) || ip6->nexthdr != IPPROTO_UDP)
			return TCX_NEXT;
		to = address_of(&ip6->daddr);
	}
	udp = take(&c, sizeof(*udp));
	if (!udp || udp->dest != TUNNEL_PORT)
		return TCX_NEXT;
	index = bpf_map_lookup_elem(&peer_index, &to);
	peer = index ? bpf_map_lookup_elem(&peers, index) : NULL;
	if (!peer || !peer->ifindex || peer->vlan)	/* a VLAN's parent is no way of the kernel's */
		return TCX_NEXT;
	return bpf_redirect_neigh(peer->ifindex, NULL, 0, 0);
}
