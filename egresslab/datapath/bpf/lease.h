/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Counting grants: a lease is held until the moment that a quorum of voters granted. Only programs write here, under
 * the value's lock (bpf_spin_lock(): kernel 5.1), so two probes on two CPUs count as they would one after the other.
 */
#pragma once

#include "maps.h"

/* 1 where a >= b, for values below 2^63. Without a jump: the verifier would follow both ways of every comparison. */
static __always_inline __u64 at_least(__u64 a, __u64 b)
{
	__u64 below = a - b;

	asm volatile("" : "+r"(below));
	return (below >> 63) ^ 1;
}

static __always_inline __u64 equal(__u64 a, __u64 b)
{
	return at_least(a, b) & at_least(b, a);
}

/* `epochs` and `untils` of the grants that count: the latest moment of the latest epoch that a quorum granted. */
static __always_inline void lease_count(struct lease *lease, const __u64 *epochs, const __u64 *untils, __u32 quorum)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < VOTERS; i++) {
		__u64 agree = 0;

#pragma clang loop unroll(disable)
		for (int j = 0; j < VOTERS; j++)
			agree += equal(epochs[i], epochs[j]) & at_least(untils[j], untils[i]);
		/* Epoch 0 is nobody's: places without a voter have it. */
		if (agree < quorum || !epochs[i] || epochs[i] < lease->epoch)
			continue;
		if (epochs[i] > lease->epoch || untils[i] > lease->holds_until) {
			lease->epoch = epochs[i];
			*(volatile __u64 *)&lease->holds_until = untils[i];
		}
	}
}

/* The voter in `place` grants `epoch` until `until`; then what a quorum grants is counted anew. 1: taken. */
__noinline int grant_lease(__u32 number, __u32 place, __u64 epoch, __u64 until)
{
	__u64 epochs[VOTERS], untils[VOTERS];
	__u32 zero = 0;
	const struct voters *known = bpf_map_lookup_elem(&voters, &zero);
	struct lease *lease = bpf_map_lookup_elem(&leases, &number);
	struct grant *grant;
	__be32 voter;

	if (!known || !lease)
		return 0;
	/* Checked and used without a call in between: 5.10 forgets the bounds of a number that it puts aside. */
	asm volatile("" : "+r"(place));
	if (place >= VOTERS)
		return 0;
	grant = &lease->grants[place];
	voter = known->address[place];
	asm volatile("" : "+r"(grant), "+r"(voter));
	bpf_spin_lock(&lease->lock);
	if (grant->voter != voter) {
		grant->voter = voter;
		grant->epoch = 0;
	}
	if (epoch > grant->epoch || (epoch == grant->epoch && until > grant->until)) {
		grant->epoch = epoch;
		grant->until = until;
	}
#pragma clang loop unroll(disable)
	for (int i = 0; i < VOTERS; i++) {
		bool counts = known->address[i] && lease->grants[i].voter == known->address[i];

		epochs[i] = counts ? lease->grants[i].epoch : 0;
		untils[i] = lease->grants[i].until;
	}
	lease_count(lease, epochs, untils, known->quorum);
	bpf_spin_unlock(&lease->lock);
	return 1;
}
