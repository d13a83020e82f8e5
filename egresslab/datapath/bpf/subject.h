/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * All that is known about the packet in hand, and the space to work on it. It lives in a per-CPU map because 512 bytes
 * of stack do not hold it; no program of ours interrupts another one on the same CPU, as all run with bottom halves off.
 */
#pragma once

#include "maps.h"
#include "packet.h"

#define QUOTED 68	/* bytes of the offending packet in an ICMP error of ours; a multiple of four */

struct icmp_answer {
	struct address source;
	__u16 mtu;
	__u8 type;
	__u8 code;
};

struct subject {
	struct packet packet;
	struct flow_key_v6 key;		/* of the packet's flow, or of the flow that an ICMP error is about */
	__u32 slot;
	__be32 node;			/* tunnel endpoint of the pod's node, 0 when it is here */

	/* Below here: written before it is read, so not cleared for each packet. */
	struct quoted quoted;
	struct address to;		/* what the translated side becomes */
	__be16 to_port;
	__u16 pad;
	struct flow_key_v6 other;	/* key of a flow's other half */
	struct flow half;
	struct icmp_answer answer;
	__u8 quotation[QUOTED];
	__u8 header[48];
	__u8 pseudo[40];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct subject);
} subjects SEC(".maps");

/* For functions that the verifier checks by themselves: see split.h. */
static __always_inline struct subject *subject_current(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&subjects, &zero);
}

static __always_inline struct subject *subject_begin(void)
{
	__u32 zero = 0;
	struct subject *subject = bpf_map_lookup_elem(&subjects, &zero);

	if (subject)
		__builtin_memset(subject, 0, __builtin_offsetof(struct subject, quoted));
	return subject;
}
