/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Ingress of the tunnel device. */
#pragma once

#include "overlay.h"

static __always_inline int from_overlay_family(struct __sk_buff *skb, int family)
{
	const struct config *config = config_get();
	const struct gateway_slot *slot;
	const struct endpoint *endpoint;
	struct bpf_tunnel_key tunnel = {};
	struct subject *subject = subject_begin();
	struct packet *packet;
	struct flow *flow;
	int reason;

	if (!config || !subject)
		return DROP;
	packet = &subject->packet;
	if (!bpf_skb_get_tunnel_key(skb, &tunnel, TUNNEL_KEY_SIZE, 0)) {
		if (tunnel.tunnel_id != config->vni)
			return pass(skb, FROM_OVERLAY, NOT_OURS);
		subject->node = bpf_htonl(tunnel.remote_ipv4);
	}
	reason = parse_network(skb, family, packet);
	if (reason)
		return drop(skb, config, packet, FROM_OVERLAY, reason, 0);

	endpoint = endpoint_of(&packet->destination);
	if (endpoint && endpoint->ifindex) {
		if (skb->gso_size)
			note_segmented(flow_answered(skb, family, subject));
		/* The frame was addressed to a device on the gateway. */
		bpf_skb_change_type(skb, PACKET_HOST);
		count(skb, FROM_OVERLAY, DELIVERED);
		return send_to_pod(skb, endpoint);
	}
	slot = slot_of_steered(skb, family, config, subject, &flow, &reason);
	if (!slot && reason == EXCLUDED) {
		/* The other node has yet to learn it; meanwhile this one forwards as any other packet. */
		bpf_skb_change_type(skb, PACKET_HOST);
		return pass(skb, FROM_OVERLAY, EXCLUDED);
	}
	if (!slot)
		return drop(skb, config, packet, FROM_OVERLAY, reason, subject->slot);
	if (skb->gso_size)
		note_segmented(flow);
	if (packet->part == FRAGMENT_FIRST)
		fragment_remember(packet);
	return gateway_out(skb, family, config, subject, FROM_OVERLAY, flow, slot);
}

SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return from_overlay_family(skb, AF_INET);
	case bpf_htons(ETH_P_IPV6):
		return from_overlay_family(skb, AF_INET6);
	default:
		return DROP;
	}
}
