/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Whether this node lives: the programs answer each other, with or without a daemon. */
#pragma once

#include "encap.h"

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
	message->age = be32(!beat->at ? NEVER : clock->now <= beat->at ? 0 :
			    (__u32)((clock->now - beat->at) / 1000000));
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
