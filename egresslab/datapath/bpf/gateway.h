/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a gateway does with a packet that a policy gave it, whether from a pod of its own or out of the tunnel. */
#pragma once

#include "split.h"

/* Transport, ports and the outbound flow key of what a pod sent; a reason when it cannot be translated. */
static __always_inline int identify(struct __sk_buff *skb, int family, struct subject *subject)
{
	struct packet *packet = &subject->packet;
	int reason = parse_transport(skb, family, packet);

	if (reason)
		return reason;
	if (packet->part == FRAGMENT_LATER && !fragment_ports(family, packet))
		return FRAGMENT_WITHOUT_FIRST;
	if (packet->transport == TRANSPORT_ICMP_OTHER)
		return UNSUPPORTED_ICMP;
	if (packet->transport != TRANSPORT_ERROR) {
		key_of_sender(&subject->key, packet);
		return NONE;
	}
	if (packet->part != FRAGMENT_NONE)
		return UNSUPPORTED_ICMP;
	reason = parse_quoted(skb, family, packet, &subject->quoted);
	if (reason)
		return reason;
	subject->key.local = subject->quoted.destination;
	subject->key.remote = subject->quoted.source;
	subject->key.local_port = subject->quoted.destination_port;
	subject->key.remote_port = subject->quoted.source_port;
	subject->key.protocol = subject->quoted.protocol;
	return NONE;
}

/* An ICMP error back to the pod that sent the packet. */
static __always_inline int answer_pod(struct __sk_buff *skb, int family, const struct config *config,
				      struct subject *subject, __u32 program, __u32 reason, __u32 mtu)
{
	struct icmp_answer *answer = &subject->answer;

	count(skb, program, reason);
	if (!may_be_answered(&subject->packet))
		return DROP;
	answer_kind(family, reason, mtu, answer);
	if (family == AF_INET)
		address_from_v4(&answer->source, config->address_v4);
	else
		answer->source = config->address_v6;
	if (family == AF_INET ? !config->address_v4 : address_is_zero(&answer->source))
		answer->source = subject->packet.destination;
	if (!turn_into_answer(skb, family))
		return DROP;
	return subject->node ? send_to_node(skb, config, subject->node) : bpf_redirect(skb->ifindex, 0);
}

/* A reset back to the pod, whose connection nobody here knows. */
static __always_inline int reset_pod(struct __sk_buff *skb, int family, const struct config *config,
				     struct subject *subject, __u32 program)
{
	count(skb, program, RESET);
	if (!turn_into_reset(skb, family))
		return DROP;
	return subject->node ? send_to_node(skb, config, subject->node) : bpf_redirect(skb->ifindex, 0);
}

/* The translation of a flow: the one that it has, if that still holds, or a new one. */
static __always_inline int translation_of(struct __sk_buff *skb, int family, const struct config *config,
					  struct subject *subject, __u32 program, struct flow *flow,
					  const struct gateway_slot *slot)
{
	struct packet *packet = &subject->packet;

	if (flow && flow->kind == FLOW_TRANSLATED) {
		bool reopened = packet->protocol == IPPROTO_TCP && opens_connection(packet);
		bool moved = !address_equal(&flow->address, &subject->to);

		if (!reopened && !moved &&
		    (flow_silence(flow) < NANOSECONDS || reply_half_restore(family, subject, flow))) {
			flow_touch(flow, packet->tcp_flags);
			flow->slot = subject->slot;
			if (packet->tcp_flags & (TCP_FIN | TCP_RST))
				note_close(skb, family, program);
			subject->to_port = flow->port;
			return NONE;
		}
		/* Another egress address, or a connection that begins anew on the same ports. */
		key_of_other_half(&subject->other, &subject->key, flow);
		if (reopened || moved)
			flow_remove(family, &subject->other);
	}
	if (packet->transport == TRANSPORT_ERROR)
		return NO_FLOW;
	if (packet->transport == TRANSPORT_ECHO_REPLY)
		return UNSUPPORTED_ICMP;
	if ((slot->flags & SLOT_RESET) && packet->protocol == IPPROTO_TCP && !opens_connection(packet))
		return packet->tcp_flags & TCP_RST ? NO_FLOW : RESET;
	for (__u32 order = 0; !open_translation(skb, family, FLOW_TRANSLATED); order++)
		if (order == SPILLS || !slot_spill(family, slot, order, &subject->to))
			return NO_FREE_PORT;
	record_flow(skb, config, program, OPENED, &subject->key, &subject->half);
	return NONE;
}

/* Translate and leave. From here on the packet is ours: whatever goes wrong, it is dropped with a reason. */
static __always_inline int gateway_out(struct __sk_buff *skb, int family, const struct config *config,
				       struct subject *subject, __u32 program, struct flow *flow,
				       const struct gateway_slot *slot)
{
	struct packet *packet = &subject->packet;
	struct route route = {};
	int reason;

	if (slot->lease && !lease_is_held(slot->lease))
		return drop(skb, config, packet, program, NOT_HOLDER, subject->slot);
	if (!(flow && flow->kind == FLOW_TRANSLATED && !(packet->tcp_flags && opens_connection(packet))
		      ? slot_source_of_flow(family, slot, &flow->address, &subject->to)
		      : slot_source(family, slot, &subject->to)))
		return drop(skb, config, packet, program, NO_EGRESS_IP, subject->slot);
	if (packet->hop_limit <= 1)
		return answer_pod(skb, family, config, subject, program, TIME_EXCEEDED, 0);
	reason = route_find(skb, family, packet, &subject->to, slot->ifindex, &route);
	if (reason == TOO_BIG)
		return answer_pod(skb, family, config, subject, program, TOO_BIG, route.mtu);
	if (!reason)
		reason = translation_of(skb, family, config, subject, program, flow, slot);
	if (reason == RESET)
		return reset_pod(skb, family, config, subject, program);
	if (reason)
		return drop(skb, config, packet, program, reason, subject->slot);
	if (!translate(skb, family, subject, true, 1))
		return drop(skb, config, packet, program, REWRITE_FAILED, subject->slot);
	count(skb, program, TRANSLATED);
	return send_to_wire(skb, &route);
}
