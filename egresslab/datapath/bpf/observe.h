/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the programs tell userspace: a counter for every verdict, a record for what deserves one. */
#pragma once

#include "subject.h"

#define NANOSECONDS 1000000000ULL
#define PASS TC_ACT_UNSPEC	/* on to the next filter, then to the stack: others may have a say */
#define DROP TC_ACT_SHOT

/*
 * On packets of a trial (BPF_PROG_TEST_RUN) that asks what would become of one: neither counted nor recorded, and the
 * verdict is left where the trial finds it. A pod's packets bear no mark when they arrive here.
 */
#define MARK_TRIAL 0x00e60001
#define TRIAL_VERDICT 0x80000000

/* In words of its own, or the compiler adds up context and offset beforehand, which the verifier does not allow. */
static __always_inline bool is_trial(const struct __sk_buff *skb)
{
	__u32 mark;

	asm volatile("%[mark] = *(u32 *)(%[skb] + %[offset])"
		     : [mark] "=r"(mark)
		     : [skb] "r"(skb), [offset] "i"(__builtin_offsetof(struct __sk_buff, mark)));
	return mark == MARK_TRIAL;
}

static __always_inline void count(struct __sk_buff *skb, __u32 program, __u32 reason)
{
	__u32 index = program * REASONS + reason;
	struct count *count;

	if (is_trial(skb)) {
		skb->cb[0] = TRIAL_VERDICT | index;
		return;
	}
	count = bpf_map_lookup_elem(&counters, &index);
	if (count) {
		count->packets += 1;
		count->bytes += skb->len;
	}
}

static __always_inline int pass(struct __sk_buff *skb, __u32 program, __u32 reason)
{
	count(skb, program, reason);
	return PASS;
}

/*
 * Openings and closings are what a standby gateway lives on. So records about drops are limited by rate, and leave half
 * of the buffer to the others (bpf_ringbuf_query(): kernel 5.8).
 */
static __always_inline bool drop_may_be_told(const struct config *config, struct record_budget *budget)
{
	__u64 window = bpf_ktime_get_ns() / NANOSECONDS;

	if (budget->window != window) {
		budget->window = window;
		budget->used = 0;
	}
	if (budget->used >= config->drop_events ||
	    bpf_ringbuf_query(&flows, BPF_RB_AVAIL_DATA) > bpf_ringbuf_query(&flows, BPF_RB_RING_SIZE) / 2)
		return false;
	budget->used += 1;
	return true;
}

static __always_inline struct flow_record *record_begin(struct __sk_buff *skb, const struct config *config,
							 __u32 program, __u32 event, __u32 reason)
{
	__u32 zero = 0;
	struct record_budget *budget = bpf_map_lookup_elem(&record_budgets, &zero);
	struct flow_record *record;

	if (!budget || is_trial(skb))
		return NULL;
	if (event == DROPPED && !drop_may_be_told(config, budget)) {
		budget->lost_drops += 1;
		return NULL;
	}
	record = bpf_ringbuf_reserve(&flows, sizeof(*record), 0);
	if (!record) {
		if (event == DROPPED)
			budget->lost_drops += 1;
		else
			budget->lost_flows += 1;
		return NULL;
	}
	__builtin_memset(record, 0, sizeof(*record));
	record->time = bpf_ktime_get_ns();
	record->event = event;
	record->program = program;
	record->reason = reason;
	record->ifindex = skb->ifindex;
	return record;
}

/* `packet` seen from the pod when it comes from one, and turned round when it goes to one. */
static __always_inline int drop(struct __sk_buff *skb, const struct config *config, const struct packet *packet,
				__u32 program, __u32 reason, __u32 slot)
{
	struct flow_record *record;

	count(skb, program, reason);
	record = record_begin(skb, config, program, DROPPED, reason);
	if (!record)
		return DROP;
	if (program == FROM_WIRE) {
		record->pod = packet->destination;
		record->remote = packet->source;
		record->pod_port = packet->destination_port;
		record->remote_port = packet->source_port;
	} else {
		record->pod = packet->source;
		record->remote = packet->destination;
		record->pod_port = packet->source_port;
		record->remote_port = packet->destination_port;
	}
	record->protocol = packet->protocol;
	record->slot = slot;
	bpf_ringbuf_submit(record, 0);
	return DROP;
}

static __always_inline void record_flow(struct __sk_buff *skb, const struct config *config, __u32 program, __u32 event,
					const struct flow_key_v6 *key, const struct flow *flow)
{
	struct flow_record *record = record_begin(skb, config, program, event, NONE);

	if (!record)
		return;
	record->pod = key->local;
	record->remote = key->remote;
	record->pod_port = key->local_port;
	record->remote_port = key->remote_port;
	record->protocol = key->protocol;
	record->egress = flow->address;
	record->egress_port = flow->port;
	record->slot = flow->slot;
	record->node = flow->node;
	bpf_ringbuf_submit(record, 0);
}
