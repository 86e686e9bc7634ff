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
	struct address to;
	struct outer *outer;
	struct peer *peer;
	__u32 *index;

	if (skb->protocol != be16(ETH_P_IP) || !take(&c, sizeof(struct ethhdr)) || !node)
		return TCX_NEXT;
	outer = take(&c, sizeof(*outer));
	if (!outer || outer->ip.saddr != node->address.word[3] ||
	    outer->ip.protocol != IPPROTO_UDP || outer->udp.dest != TUNNEL_PORT)
		return TCX_NEXT;
	to = mapped(outer->ip.daddr);
	index = bpf_map_lookup_elem(&peer_index, &to);
	peer = index ? bpf_map_lookup_elem(&peers, index) : NULL;
	if (!peer || !peer->ifindex)
		return TCX_NEXT;
	return bpf_redirect_neigh(peer->ifindex, NULL, 0, 0);
}
