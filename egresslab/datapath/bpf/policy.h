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

/* NULL also for a slot that exists but has no gateway at present. */
static __always_inline const struct gateway_slot *slot_with_gateway(__u32 number)
{
	const struct gateway_slot *slot = bpf_map_lookup_elem(&gateway_slots, &number);

	return slot && slot->endpoint ? slot : NULL;
}

/* Whether the policy prefers a wrong source address to no connection while it has no gateway (failMode: Open). */
static __always_inline bool slot_fails_open(__u32 number)
{
	const struct gateway_slot *slot = bpf_map_lookup_elem(&gateway_slots, &number);

	return slot && !slot->endpoint && (slot->flags & SLOT_OPEN);
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
