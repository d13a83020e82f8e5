/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Egress of an outward interface. Translated packets carry a mark and go straight through. Two duties remain:
 *
 * - guard: what still bears a pod's address although a policy selects it came here by a way that we do not know, and
 *   does not leave;
 * - one table of ports for each egress address: when the node's kernel uses the address too (its own connections, or
 *   its masquerade for other pods), its flows are entered as well, and given another port in the rare case that a
 *   pod's flow already has theirs.
 */
#pragma once

#include "gateway.h"

static __always_inline int guard(struct __sk_buff *skb, int family, const struct config *config,
				 struct subject *subject, const struct endpoint *endpoint)
{
	struct packet *packet = &subject->packet;
	const struct policy_value *policy;
	struct gateway gateway;
	struct flow *flow;

	if (never_leaves_link(family, &packet->destination) || in_cluster(&packet->destination))
		return pass(skb, TO_WIRE, IN_CLUSTER);
	if (endpoint->ifindex && !(endpoint->flags & ENDPOINT_READY))
		return drop(skb, config, packet, TO_WIRE, NOT_READY, 0);
	policy = policy_of(family, packet);
	if (!policy)
		return pass(skb, TO_WIRE, NO_ENTRY);
	if (policy->flags & POLICY_EXCLUDED)
		return pass(skb, TO_WIRE, EXCLUDED);
	if (!slot_with_gateway(policy->slot, &gateway) && gateway.open)
		return pass(skb, TO_WIRE, FAIL_OPEN);
	if (!identify(skb, family, subject)) {
		flow = flow_find(family, &subject->key);
		if (flow && flow->kind == FLOW_INBOUND && flow_holds(config, flow, packet))
			return pass(skb, TO_WIRE, INBOUND);
	}
	return drop(skb, config, packet, TO_WIRE, UNTRANSLATED, policy->slot);
}

static __always_inline int reserve(struct __sk_buff *skb, int family, const struct config *config,
				   struct subject *subject)
{
	struct packet *packet = &subject->packet;
	struct flow *flow;

	if (identify(skb, family, subject) || packet->transport == TRANSPORT_ERROR ||
	    packet->transport == TRANSPORT_ECHO_REPLY || in_cluster(&packet->destination) ||
	    never_leaves_link(family, &packet->destination))
		return pass(skb, TO_WIRE, NOT_OURS);
	subject->to = packet->source;
	flow = flow_find(family, &subject->key);
	if (flow && flow->kind == FLOW_NODE) {
		if (flow_silence(flow) >= NANOSECONDS)
			reply_half_restore(family, subject, flow);
		flow_touch(flow, packet->tcp_flags);
		subject->to_port = flow->port;
	} else {
		if (!opens_connection(packet))
			return pass(skb, TO_WIRE, NOT_OURS);
		if (!open_translation(skb, family, FLOW_NODE))
			return drop(skb, config, packet, TO_WIRE, NO_FREE_PORT, 0);
	}
	if (packet->part == FRAGMENT_FIRST)
		fragment_remember(packet);
	if (subject->to_port != packet->source_port && !translate(skb, family, subject, true, 0))
		return drop(skb, config, packet, TO_WIRE, REWRITE_FAILED, 0);
	return pass(skb, TO_WIRE, RESERVED);
}

static __always_inline int to_wire_family(struct __sk_buff *skb, int family)
{
	const struct config *config = config_get();
	const struct endpoint *endpoint;
	struct subject *subject = subject_begin();

	if (!config || !subject || parse_network(skb, family, &subject->packet))
		return pass(skb, TO_WIRE, NOT_OURS);
	if (subject->packet.source.word[3] == config->address_v4 &&
	    is_overlay_packet(skb, family, config, &subject->packet))
		return pass(skb, TO_WIRE, NOT_OURS);
	endpoint = endpoint_of(&subject->packet.source);
	if (endpoint)
		return guard(skb, family, config, subject, endpoint);
	if (bpf_map_lookup_elem(&egress_addresses, &subject->packet.source))
		return reserve(skb, family, config, subject);
	return pass(skb, TO_WIRE, NOT_OURS);
}

SEC("tc")
int to_wire(struct __sk_buff *skb)
{
	if (skb->mark == MARK_TRANSLATED)
		return pass(skb, TO_WIRE, ALREADY_TRANSLATED);
	if (skb->mark == MARK_WRAPPED)
		return pass(skb, TO_WIRE, NOT_OURS);
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return to_wire_family(skb, AF_INET);
	case bpf_htons(ETH_P_IPV6):
		return to_wire_family(skb, AF_INET6);
	default:
		return PASS;
	}
}
