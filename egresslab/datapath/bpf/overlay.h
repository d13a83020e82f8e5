/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What comes through the tunnel, decided: steered packets towards a gateway, and replies towards a pod's node. It carries
 * nothing else, and nothing that a policy selects may reach the stack. Here the packet is only read, so that it may still
 * be wrapped.
 */
#pragma once

#include "gateway.h"

/*
 * Whether packets of a slot are this node's to translate. Somebody else may be the holder for a moment already, in a
 * planned move: what was steered here before its sender heard of it goes on, as long as the lease lasts.
 */
static __always_inline bool translates_here(const struct gateway_slot *slot, const struct gateway *gateway)
{
	return gateway->local || (slot->lease && lease_is_held(slot->lease));
}

/* For a packet to no pod of this node: the slot that translates it, and its flow if there is one. NULL: `reason` says why
 * not. `subject->node` is where the tunnel began, or 0 where that is not known, and becomes the pod's node. */
static __always_inline const struct gateway_slot *slot_of_steered(struct __sk_buff *skb, int family,
								  const struct config *config,
								  struct subject *subject, struct flow **found,
								  int *reason)
{
	struct packet *packet = &subject->packet;
	const struct gateway_slot *slot = NULL;
	const struct policy_value *policy;
	const struct endpoint *endpoint;
	struct gateway gateway;
	struct flow *flow = NULL;
	int broken;

	broken = identify(skb, family, subject);
	if (!broken)
		flow = flow_find(family, &subject->key);
	*found = flow;
	if (flow && flow->kind == FLOW_TRANSLATED && packet->transport != TRANSPORT_ERROR && flow->node &&
	    (!subject->node || subject->node == flow->node)) {
		/* What the flow's first packet was asked still holds: outside, and from where the tunnel began. */
		subject->node = flow->node;
	} else {
		*reason = NOT_FOR_OVERLAY;
		if (in_cluster(&packet->destination) || never_leaves_link(family, &packet->destination))
			return NULL;

		/* Steered to this node, which must be the gateway. The pod must live where the tunnel began. */
		*reason = INVALID_SOURCE;
		endpoint = endpoint_of(&packet->source);
		if (endpoint) {
			if (endpoint->ifindex || (subject->node && endpoint->node && subject->node != endpoint->node))
				return NULL;
			if (!subject->node)
				subject->node = endpoint->node;
		}
		if (!subject->node)
			return NULL;
	}
	if (flow && flow->kind == FLOW_TRANSLATED && flow_holds(config, flow, packet)) {
		/* An established flow keeps its slot, as long as that still translates to the same address here. */
		subject->slot = flow->slot;
		slot = slot_with_gateway(subject->slot, &gateway);
		if (slot && translates_here(slot, &gateway) &&
		    slot_source_of_flow(family, slot, &flow->address, &subject->to) &&
		    address_equal(&subject->to, &flow->address))
			return slot;
		subject->slot = 0;
	}
	*reason = NOT_GATEWAY;
	policy = policy_of(family, packet);
	if (!policy)
		return NULL;
	subject->slot = policy->slot;
	*reason = EXCLUDED;
	if (policy->flags & POLICY_EXCLUDED)
		return NULL;
	*reason = broken;
	if (broken)
		return NULL;
	*reason = NO_GATEWAY;
	slot = slot_with_gateway(subject->slot, &gateway);
	if (!slot)
		return NULL;
	*reason = NOT_GATEWAY;
	return translates_here(slot, &gateway) ? slot : NULL;
}

/* The flow on this node that a packet for a pod here answers, if any. */
static __always_inline struct flow *flow_answered(struct __sk_buff *skb, int family, struct subject *subject)
{
	struct packet *packet = &subject->packet;

	if (parse_transport(skb, family, packet) || packet->part == FRAGMENT_LATER ||
	    (packet->transport != TRANSPORT_PORTS && packet->transport != TRANSPORT_ECHO_REPLY))
		return NULL;
	key_of_receiver(&subject->key, packet, OUTBOUND);
	return flow_find(family, &subject->key);
}

/* From now on the flow's packets take the overlay device, see tunnel.h. */
static __always_inline void note_segmented(struct flow *flow)
{
	if (flow && !(flow->tcp_flags & SEGMENTED))
		flow->tcp_flags |= SEGMENTED;
}
