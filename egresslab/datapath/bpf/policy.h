/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Questions that the maps answer: inside or outside, whose address, which slot. */
#pragma once

#include "maps.h"
#include "packet.h"

static __always_inline const struct config *config_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

/* The tunnel's own packets, most of what a gateway's wires carry; no flow of ours is given that port, as the kernel has
 * a socket on it. */
static __always_inline bool is_overlay_packet(struct __sk_buff *skb, int family, const struct config *config,
					      const struct packet *packet)
{
	__be16 port;

	return family == AF_INET && packet->protocol == IPPROTO_UDP && packet->part == FRAGMENT_NONE &&
	       !bpf_skb_load_bytes(skb, packet->transport_offset + 2, &port, sizeof(port)) &&
	       port == config->overlay_port;
}

static __always_inline bool in_cluster(const struct address *address)
{
	struct cidr_key key = { .prefixlen = 128, .network = *address };

	return bpf_map_lookup_elem(&cluster_cidrs, &key);
}

static __always_inline struct endpoint *endpoint_of(const struct address *address)
{
	return bpf_map_lookup_elem(&endpoints, address);
}

static __always_inline const struct policy_value *policy_of(int family, const struct packet *packet)
{
	if (family == AF_INET) {
		struct policy_key_v4 key = {
			.prefixlen = 64,
			.source = packet->source.word[3],
			.destination = packet->destination.word[3],
		};

		return bpf_map_lookup_elem(&egress_policy_v4, &key);
	} else {
		struct policy_key_v6 key = {
			.prefixlen = 256,
			.source = packet->source,
			.destination = packet->destination,
		};

		return bpf_map_lookup_elem(&egress_policy_v6, &key);
	}
}

/* Where a slot leads at present: its own words, or those of its lease's holder. */
struct gateway {
	__be32 endpoint;	/* 0: nowhere */
	bool local;		/* to this node */
	bool open;		/* and without a gateway its policies prefer a wrong source address to no connection */
};

/* The slot, when it leads somewhere; else NULL, and `gateway->open` says what that means. */
static __always_inline const struct gateway_slot *slot_with_gateway(__u32 number, struct gateway *gateway)
{
	const struct gateway_slot *slot = bpf_map_lookup_elem(&gateway_slots, &number);
	const struct holder *holder;

	gateway->endpoint = 0;
	gateway->local = false;
	gateway->open = false;
	if (!slot)
		return NULL;
	gateway->open = slot->flags & SLOT_OPEN;
	if (!slot->lease) {
		gateway->endpoint = slot->endpoint;
		gateway->local = slot->flags & SLOT_LOCAL;
	} else {
		__u32 lease = slot->lease;

		holder = bpf_map_lookup_elem(&holders, &lease);
		if (!holder)
			return NULL;
		gateway->endpoint = holder->endpoint;
		gateway->local = holder->flags & HOLDER_LOCAL;
	}
	return gateway->endpoint ? slot : NULL;
}

/* Against the clock: a lease ends by itself, whoever is alive to notice. */
static __always_inline bool lease_is_held(__u32 number)
{
	const struct lease *lease = bpf_map_lookup_elem(&leases, &number);

	return lease && *(const volatile __u64 *)&lease->holds_until > bpf_ktime_get_ns();
}

/* The egress address of a slot in one family; false when it has none. */
static __always_inline bool slot_source(int family, const struct gateway_slot *slot, struct address *source)
{
	if (family == AF_INET) {
		address_from_v4(source, slot->source_v4);
		return slot->source_v4;
	}
	*source = slot->source_v6;
	return !address_is_zero(source);
}

/* One of a slot's further sources; false when it has no such one. */
static __always_inline bool slot_spill(int family, const struct gateway_slot *slot, __u32 order,
				       struct address *source)
{
	if (order >= SPILLS)
		return false;
	if (family == AF_INET) {
		address_from_v4(source, slot->spill_v4[order]);
		return slot->spill_v4[order];
	}
	*source = slot->spill_v6[order];
	return !address_is_zero(source);
}

/* The address with which a flow of the slot goes on: the flow's own, while the slot still has it, else the first. */
static __always_inline bool slot_source_of_flow(int family, const struct gateway_slot *slot, const struct address *own,
						struct address *source)
{
	if (!slot_source(family, slot, source))
		return false;
	if (address_equal(source, own))
		return true;
	for (__u32 order = 0; order < SPILLS; order++) {
		struct address spill;

		if (!slot_spill(family, slot, order, &spill))
			break;
		if (address_equal(&spill, own)) {
			*source = spill;
			break;
		}
	}
	return true;
}
