/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Ingress of an outward interface: replies of translated flows return to their pods. Whatever has no translation is the
 * node's own and passes untouched, also when it is addressed to an egress address that the node's kernel owns.
 */
#pragma once

#include "announce.h"
#include "overlay.h"
#include "probe.h"

/* The key of the reply half; false for what cannot belong to one. */
static __always_inline bool identify_reply(struct __sk_buff *skb, int family, struct subject *subject)
{
	struct packet *packet = &subject->packet;

	if (parse_network(skb, family, packet) || parse_transport(skb, family, packet))
		return false;
	if (packet->part == FRAGMENT_LATER && !fragment_ports(family, packet))
		return false;
	if (packet->transport == TRANSPORT_ICMP_OTHER || packet->transport == TRANSPORT_ECHO)
		return false;
	if (packet->transport != TRANSPORT_ERROR) {
		key_of_receiver(&subject->key, packet, REPLIES);
		return true;
	}
	if (packet->part != FRAGMENT_NONE || parse_quoted(skb, family, packet, &subject->quoted))
		return false;
	subject->key.local = subject->quoted.source;
	subject->key.remote = subject->quoted.destination;
	subject->key.local_port = subject->quoted.source_port;
	subject->key.remote_port = subject->quoted.destination_port;
	subject->key.protocol = subject->quoted.protocol;
	subject->key.direction = REPLIES;
	return true;
}

/* Too large for the tunnel: tell the sender, in the name of the address that it wrote to. */
static __always_inline int answer_sender(struct __sk_buff *skb, int family, const struct config *config,
					 struct subject *subject)
{
	count(skb, FROM_WIRE, TOO_BIG);
	if (!may_be_answered(&subject->packet))
		return DROP;
	answer_kind(family, TOO_BIG, config->overlay_mtu, &subject->answer);
	subject->answer.source = subject->packet.destination;
	if (!turn_into_answer(skb, family))
		return DROP;
	skb->mark = MARK_TRANSLATED;
	return bpf_redirect(skb->ifindex, 0);
}

/* What no flow of ours can be: a solicitation for an address that this node announces, or the node's own business. */
static __always_inline int not_a_reply(struct __sk_buff *skb, int family, struct subject *subject)
{
	int answered;

	if (family == AF_INET || !subject || subject->packet.transport != TRANSPORT_ICMP_OTHER)
		return pass(skb, FROM_WIRE, NOT_OURS);
	answered = answer_solicitation(skb);
	if (answered < 0)
		return DROP;
	return answered ? send_back(skb, FROM_WIRE, ANNOUNCED) : pass(skb, FROM_WIRE, NOT_OURS);
}

/* A packet of the tunnel that could not be unwrapped. A drop is counted only: stack is scarce here, see split.h. */
static __always_inline int not_taken(struct __sk_buff *skb, int reason)
{
	if (reason == NOT_OURS)
		return pass(skb, FROM_WIRE, NOT_OURS);
	count(skb, FROM_OVERLAY, reason);
	return DROP;
}

/*
 * A packet of the tunnel, which begins at `node`. What is beyond doubt needs no device: an answer to a flow that was
 * steered to that node, and what a pod of that node sends out through this one. It counts as the device's would.
 */
static __always_inline int take(struct __sk_buff *skb, int family, __be32 node)
{
	const struct config *config = config_get();
	struct subject *subject = subject_current();
	const struct gateway_slot *slot;
	const struct endpoint *endpoint;
	struct gateway gateway;
	struct packet *packet;
	struct flow *flow;
	int reason;

	if (!config || !subject)
		return pass(skb, FROM_WIRE, NOT_OURS);
	packet = &subject->packet;
	__builtin_memset(packet, 0, sizeof(*packet));
	if (family == AF_INET ? parse_network_v4(skb, NETWORK + WRAPPING, packet)
			      : parse_network_v6(skb, NETWORK + WRAPPING, packet))
		return pass(skb, FROM_WIRE, NOT_OURS);

	endpoint = endpoint_of(&packet->destination);
	if (endpoint && endpoint->ifindex) {
		flow = flow_answered(skb, family, subject);
		if (!flow || flow->kind != FLOW_STEERED || (flow->tcp_flags & SEGMENTED) ||
		    !slot_with_gateway(flow->slot, &gateway) || gateway.endpoint != node)
			return pass(skb, FROM_WIRE, NOT_OURS);
		reason = unwrap(skb, family);
		if (reason)
			return not_taken(skb, reason);
		count(skb, FROM_OVERLAY, DELIVERED);
		return send_to_pod(skb, endpoint);
	}
	subject->node = node;
	slot = slot_of_steered(skb, family, config, subject, &flow, &reason);
	if (!slot || packet->transport == TRANSPORT_ERROR || packet->part != FRAGMENT_NONE ||
	    (flow && (flow->tcp_flags & SEGMENTED)))
		return pass(skb, FROM_WIRE, NOT_OURS);
	reason = unwrap(skb, family);
	if (reason)
		return not_taken(skb, reason);
	packet->transport_offset -= WRAPPING;
	return gateway_out(skb, family, config, subject, FROM_OVERLAY, flow, slot);
}

/* Functions of their own for the stack's sake; see split.h. */
__noinline int take_v4(struct __sk_buff *skb, __u32 node)
{
	return take(skb, AF_INET, node);
}

__noinline int take_v6(struct __sk_buff *skb, __u32 node)
{
	return take(skb, AF_INET6, node);
}

static __always_inline int take_from_tunnel(struct __sk_buff *skb)
{
	__be32 node = plainly_wrapped_by(skb);
	__be16 protocol;

	if (!node || bpf_skb_load_bytes(skb, NETWORK + WRAPPING - sizeof(protocol), &protocol, sizeof(protocol)))
		return pass(skb, FROM_WIRE, NOT_OURS);
	if (protocol == bpf_htons(ETH_P_IP))
		return take_v4(skb, node);
	return protocol == bpf_htons(ETH_P_IPV6) ? take_v6(skb, node) : pass(skb, FROM_WIRE, NOT_OURS);
}

static __always_inline int from_wire_family(struct __sk_buff *skb, int family)
{
	const struct config *config = config_get();
	const struct endpoint *endpoint;
	struct subject *subject = subject_begin();
	struct packet *packet;
	struct flow *flow;

	if (!config || !subject || !identify_reply(skb, family, subject))
		return not_a_reply(skb, family, subject);
	packet = &subject->packet;
	if (family == AF_INET && packet->destination_port == config->overlay_port &&
	    packet->protocol == IPPROTO_UDP)
		return take_from_tunnel(skb);
	if (family == AF_INET && may_be_probe(config, packet)) {
		int answered = answer_probe(skb);

		if (answered)
			return answered < 0 ? DROP : send_back(skb, FROM_WIRE, PROBED);
	}
	flow = flow_find(family, &subject->key);
	if (!flow || (flow->kind != FLOW_REPLY && flow->kind != FLOW_NODE))
		return pass(skb, FROM_WIRE, NOT_OURS);
	subject->to = flow->address;
	subject->to_port = flow->port;
	if (packet->transport != TRANSPORT_ERROR)
		flow_touch(flow, packet->tcp_flags);
	if (packet->part == FRAGMENT_FIRST)
		fragment_remember(packet);
	if (flow->kind == FLOW_NODE) {
		if (flow->port != subject->key.local_port && !translate(skb, family, subject, false, 0))
			return drop(skb, config, packet, FROM_WIRE, REWRITE_FAILED, flow->slot);
		return pass(skb, FROM_WIRE, RESERVED);
	}

	/* A translation of ours: it reaches its pod or is dropped. */
	subject->slot = flow->slot;
	subject->node = flow->node;
	if (packet->tcp_flags & (TCP_FIN | TCP_RST))
		note_close(skb, family, FROM_WIRE);
	if (packet->hop_limit <= 1)
		return drop(skb, config, packet, FROM_WIRE, HOP_LIMIT, subject->slot);
	endpoint = subject->node ? NULL : endpoint_of(&subject->to);
	if (!subject->node && (!endpoint || !endpoint->ifindex))
		return drop(skb, config, packet, FROM_WIRE, UNKNOWN_ENDPOINT, subject->slot);
	if (subject->node && !config->overlay_ifindex)
		return drop(skb, config, packet, FROM_WIRE, NO_OVERLAY, subject->slot);
	if (subject->node && config->overlay_mtu && (family == AF_INET6 || !packet->may_fragment) &&
	    largest_packet(skb, packet) > config->overlay_mtu)
		return answer_sender(skb, family, config, subject);
	if (!translate(skb, family, subject, false, 1))
		return drop(skb, config, packet, FROM_WIRE, REWRITE_FAILED, subject->slot);
	if (endpoint) {
		count(skb, FROM_WIRE, DELIVERED);
		return send_to_pod(skb, endpoint);
	}
	if (config->overlay_mtu && clamp_mss(skb, family, packet, config->overlay_mtu))
		return drop(skb, config, packet, FROM_WIRE, REWRITE_FAILED, subject->slot);
	count(skb, FROM_WIRE, RETURNED);
	return send_to_node(skb, config, subject->node);
}

SEC("tc")
int from_wire(struct __sk_buff *skb)
{
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		return from_wire_family(skb, AF_INET);
	case bpf_htons(ETH_P_IPV6):
		return from_wire_family(skb, AF_INET6);
	case bpf_htons(ETH_P_ARP):
		return answer_arp(skb) ? send_back(skb, FROM_WIRE, ANNOUNCED) : PASS;
	default:
		return PASS;
	}
}
