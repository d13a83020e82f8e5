/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The flow table: what a flow was decided to be, and both halves of a translation.
 *
 * Keys are always built as flow_key_v6 and shortened for IPv4 just before the map is asked, so that everything else
 * is written once. A translation is claimed by inserting its reply half with BPF_NOEXIST first: of two flows that
 * want the same tuple, on any CPU, exactly one gets it.
 */
#pragma once

#include "observe.h"

#define OUTBOUND 0
#define REPLIES 1
#define PORT_ATTEMPTS 64
/* In flow.tcp_flags, above TCP's own. */
#define SEGMENTED 0x40		/* packets of several segments came out of the tunnel; see tunnel.h */
#define CLOSE_REPORTED 0x80

static __always_inline struct flow_key_v4 short_key(const struct flow_key_v6 *key)
{
	return (struct flow_key_v4){
		.local = key->local.word[3],
		.remote = key->remote.word[3],
		.local_port = key->local_port,
		.remote_port = key->remote_port,
		.protocol = key->protocol,
		.direction = key->direction,
	};
}

static __always_inline struct flow *flow_find(int family, const struct flow_key_v6 *key)
{
	if (family == AF_INET) {
		struct flow_key_v4 v4 = short_key(key);

		return bpf_map_lookup_elem(&nat_v4, &v4);
	}
	return bpf_map_lookup_elem(&nat_v6, key);
}

static __always_inline long flow_put(int family, const struct flow_key_v6 *key, const struct flow *flow, __u64 mode)
{
	if (family == AF_INET) {
		struct flow_key_v4 v4 = short_key(key);

		return bpf_map_update_elem(&nat_v4, &v4, flow, mode);
	}
	return bpf_map_update_elem(&nat_v6, key, flow, mode);
}

static __always_inline void flow_remove(int family, const struct flow_key_v6 *key)
{
	if (family == AF_INET) {
		struct flow_key_v4 v4 = short_key(key);

		bpf_map_delete_elem(&nat_v4, &v4);
		return;
	}
	bpf_map_delete_elem(&nat_v6, key);
}

static __always_inline void key_of_sender(struct flow_key_v6 *key, const struct packet *packet)
{
	key->local = packet->source;
	key->remote = packet->destination;
	key->local_port = packet->source_port;
	key->remote_port = packet->destination_port;
	key->protocol = packet->protocol;
	key->direction = OUTBOUND;
	key->pad = 0;
}

static __always_inline void key_of_receiver(struct flow_key_v6 *key, const struct packet *packet, __u8 direction)
{
	key->local = packet->destination;
	key->remote = packet->source;
	key->local_port = packet->destination_port;
	key->remote_port = packet->source_port;
	key->protocol = packet->protocol;
	key->direction = direction;
	key->pad = 0;
}

/* The other half of a translation. */
static __always_inline void key_of_other_half(struct flow_key_v6 *other, const struct flow_key_v6 *key,
					      const struct flow *flow)
{
	*other = *key;
	other->local = flow->address;
	other->local_port = flow->port;
	other->direction = !key->direction;
}

/* Silent time of a flow; 0 within the jiffy of its last packet, without reading the clock. */
static __always_inline __u64 flow_silence(const struct flow *flow)
{
	return flow->tick == (__u32)bpf_jiffies64() ? 0 : bpf_ktime_get_ns() - flow->seen;
}

static __always_inline void flow_touch(struct flow *flow, __u8 tcp_flags)
{
	__u32 tick = bpf_jiffies64();

	if (flow->tick != tick) {
		flow->tick = tick;
		flow->seen = bpf_ktime_get_ns();
	}
	if ((flow->tcp_flags | tcp_flags) != flow->tcp_flags)
		flow->tcp_flags |= tcp_flags;
}

/* Pins and notes; a translation is made by translation_open(). */
static __always_inline void flow_note(int family, struct subject *subject, __u8 kind)
{
	struct flow *flow = &subject->half;

	__builtin_memset(flow, 0, sizeof(*flow));
	flow->opened = bpf_ktime_get_ns();
	flow->seen = flow->opened;
	flow->tick = bpf_jiffies64();
	flow->slot = subject->slot;
	flow->kind = kind;
	flow->tcp_flags = subject->packet.tcp_flags;
	flow_put(family, &subject->key, flow, BPF_ANY);
}

/* Whether `flow` still decides for this packet, or the packet is to be decided anew. */
static __always_inline bool flow_holds(const struct config *config, const struct flow *flow,
				       const struct packet *packet)
{
	if (flow->kind == FLOW_PASSED)
		return false;
	if (flow->kind != FLOW_INBOUND && !(config->flags & CONFIG_PIN_FLOWS))
		return false;
	if (packet->protocol == IPPROTO_TCP)
		return !opens_connection(packet);
	return flow_silence(flow) < config->idle_pin * NANOSECONDS;
}

/* A socket of the node that already lives on the tuple, or listens on the port. */
static __always_inline bool socket_of_node(struct __sk_buff *skb, int family, const struct flow_key_v6 *reply)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;
	__u32 size;

	if (family == AF_INET) {
		tuple.ipv4.saddr = reply->remote.word[3];
		tuple.ipv4.daddr = reply->local.word[3];
		tuple.ipv4.sport = reply->remote_port;
		tuple.ipv4.dport = reply->local_port;
		size = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, &reply->remote, sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, &reply->local, sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = reply->remote_port;
		tuple.ipv6.dport = reply->local_port;
		size = sizeof(tuple.ipv6);
	}
	if (reply->protocol == IPPROTO_TCP)
		socket = bpf_skc_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (reply->protocol == IPPROTO_UDP)
		socket = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		return false;
	if (!socket)
		return false;
	bpf_sk_release(socket);
	return true;
}

/* A socket of the node that already lives on the tuple, or listens on the port, would be cut off by a flow of ours. */
static __always_inline bool tuple_is_free(struct __sk_buff *skb, int family, const struct flow_key_v6 *reply, __u8 kind)
{
	return kind == FLOW_NODE || !socket_of_node(skb, family, reply);
}

/*
 * Claim a port of `subject->to` for the flow: its own if nobody has it, else one from the configured range, from a
 * random start. A range no larger than PORT_ATTEMPTS is searched completely. On success `subject->half` is the flow as
 * it was entered, and `subject->to_port` its port; false when every attempt met a tuple in use.
 */
static __always_inline bool claim(struct __sk_buff *skb, int family, const struct config *config,
				  struct subject *subject, __u8 kind)
{
	struct flow_key_v6 *reply = &subject->other;
	struct flow *half = &subject->half;
	__u32 size = config->port_max - config->port_min + 1;
	__u32 start = bpf_get_prandom_u32();
	__u32 stride = size > PORT_ATTEMPTS ? (bpf_get_prandom_u32() & 0xff) | 1 : 1;

	half->opened = bpf_ktime_get_ns();
	half->seen = half->opened;
	half->tick = bpf_jiffies64();
	half->slot = subject->slot;
	half->node = subject->node;
	half->address = subject->key.local;
	half->port = subject->key.local_port;
	half->kind = kind == FLOW_NODE ? FLOW_NODE : FLOW_REPLY;
	half->tcp_flags = 0;
	*reply = subject->key;
	reply->local = subject->to;
	reply->direction = REPLIES;
	for (__u32 attempt = 0; attempt <= PORT_ATTEMPTS; attempt++) {
		if (attempt)
			reply->local_port = bpf_htons(config->port_min + (start + attempt * stride) % size);
		if (!tuple_is_free(skb, family, reply, kind))
			continue;
		if (flow_put(family, reply, half, BPF_NOEXIST)) {
			/* Our own reply half, whose outbound half was evicted, is as good as a new one. */
			struct flow *holder = flow_find(family, reply);

			if (!holder || holder->port != half->port || !address_equal(&holder->address, &half->address))
				continue;
			flow_touch(holder, 0);
		}
		half->kind = kind;
		half->address = subject->to;
		half->port = reply->local_port;
		half->tcp_flags = subject->packet.tcp_flags | (skb->gso_size ? SEGMENTED : 0);
		subject->to_port = reply->local_port;
		if (!flow_put(family, &subject->key, half, BPF_ANY))
			return true;
		flow_remove(family, reply);
		return false;
	}
	return false;
}

/*
 * The reply half may have been evicted while the outbound half lived on, and its tuple given away. Put it back; false
 * when it now belongs to somebody else.
 */
static __always_inline bool reply_half_restore(int family, struct subject *subject, const struct flow *flow)
{
	struct flow *half = &subject->half;
	struct flow *holder;

	key_of_other_half(&subject->other, &subject->key, flow);
	*half = *flow;
	half->address = subject->key.local;
	half->port = subject->key.local_port;
	half->kind = flow->kind == FLOW_NODE ? FLOW_NODE : FLOW_REPLY;
	half->tcp_flags = 0;
	if (!flow_put(family, &subject->other, half, BPF_NOEXIST))
		return true;
	holder = flow_find(family, &subject->other);
	return holder && holder->port == half->port && address_equal(&holder->address, &half->address);
}

/* On FIN or RST: report the end once, when both sides are done. `flow` has this packet's flags already. */
static __always_inline void report_close(struct __sk_buff *skb, int family, const struct config *config,
					 __u32 program, struct subject *subject)
{
	struct flow *flow = flow_find(family, &subject->key);
	struct flow *other, *outbound;

	if (!flow)
		return;
	key_of_other_half(&subject->other, &subject->key, flow);
	other = flow_find(family, &subject->other);
	if (!other)
		return;
	if (!((flow->tcp_flags | other->tcp_flags) & TCP_RST) && !(flow->tcp_flags & other->tcp_flags & TCP_FIN))
		return;
	outbound = subject->key.direction == OUTBOUND ? flow : other;
	if (outbound->tcp_flags & CLOSE_REPORTED)
		return;
	outbound->tcp_flags |= CLOSE_REPORTED;
	record_flow(skb, config, program, CLOSED, outbound == flow ? &subject->key : &subject->other, outbound);
}

static __always_inline void fragment_key(struct fragment_key *key, const struct packet *packet)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = packet->source;
	key->destination = packet->destination;
	key->id = packet->fragment_id;
	key->protocol = packet->protocol;
}

/* A later fragment gets the ports of its first one; false when that never came by. */
static __always_inline bool fragment_ports(int family, struct packet *packet)
{
	struct fragment_key key;
	struct fragment *first;

	fragment_key(&key, packet);
	first = bpf_map_lookup_elem(&fragments, &key);
	if (!first)
		return false;
	packet->source_port = first->source_port;
	packet->destination_port = first->destination_port;
	packet->transport = packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP ? TRANSPORT_PORTS
			    : packet->source_port                                              ? TRANSPORT_ECHO
											       : TRANSPORT_ECHO_REPLY;
	return true;
}

static __always_inline void fragment_remember(const struct packet *packet)
{
	struct fragment_key key;
	struct fragment first = { packet->source_port, packet->destination_port };

	fragment_key(&key, packet);
	bpf_map_update_elem(&fragments, &key, &first, BPF_ANY);
}
