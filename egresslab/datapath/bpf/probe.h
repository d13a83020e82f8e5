/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Voters' probes, answered in the kernel, so that a gateway whose agent is busy or dead stays a gateway, and one that
 * is cut off does not. docs/failover.md gives the format. What is not exactly a probe is left as it came.
 */
#pragma once

#include "lease.h"
#include "observe.h"
#include "policy.h"
#include "rewrite.h"

#define PROBE_PORT 9878
#define PROBE_SIZE 168
#define PROBE_GRANTS 8
#define PROBE_MAGIC 0x45474c42	/* EGLB */
#define PROBE_VERSION 1
#define PROBE_REQUEST 1
#define PROBE_ANSWER 2
#define PROBE_VOTER_ALIVE 1
#define VOTER_SILENCE NANOSECONDS
#define ECHO_AGE (60 * NANOSECONDS)
#define LONGEST_GRANT 60000	/* ms */
#define MILLISECOND 1000000ULL

struct probe {
	__be32 magic;
	__u8 version;
	__u8 kind;
	__u8 grants;
	__u8 zero;
	__be32 sequence;
	__be32 flags;
	__be64 sender_clock;
	__be64 echo;
	__be64 gateway_clock;
};

struct probe_grant {
	__be32 lease;
	__be32 duration;
	__be64 epoch;
};

struct probe_frame {
	struct iphdr ip;
	struct udphdr udp;
	struct probe probe;
} __attribute__((packed, aligned(4)));

static __always_inline bool probe_is_whole(const struct __sk_buff *skb, const struct probe_frame *frame)
{
	return frame->ip.version == 4 && frame->ip.ihl == 5 && frame->ip.protocol == IPPROTO_UDP &&
	       !(frame->ip.frag_off & bpf_htons(0x3fff)) &&
	       frame->ip.tot_len == bpf_htons(sizeof(frame->ip) + sizeof(frame->udp) + PROBE_SIZE) &&
	       skb->len >= NETWORK + sizeof(frame->ip) + sizeof(frame->udp) + PROBE_SIZE &&
	       frame->udp.source == bpf_htons(PROBE_PORT) && frame->udp.dest == bpf_htons(PROBE_PORT) &&
	       frame->udp.len == bpf_htons(sizeof(frame->udp) + PROBE_SIZE) &&
	       frame->probe.magic == bpf_htonl(PROBE_MAGIC) && frame->probe.version == PROBE_VERSION &&
	       frame->probe.kind == PROBE_REQUEST && frame->probe.grants <= PROBE_GRANTS && !frame->probe.zero;
}

/* The voter's place; VOTERS for somebody else. */
static __always_inline __u32 place_of_voter(const struct voters *voters, __be32 address)
{
	__u32 place = 0;

	if (!address)
		return VOTERS;
	while (place < VOTERS && voters->address[place] != address)
		place++;
	return place;
}

/* Take one grant and turn it into the state of its lease. `echo` 0: it grants nothing. */
static __always_inline void probe_grant(__u32 place, __u64 echo, __u64 now,
					struct probe_grant *grant)
{
	__u32 number = bpf_ntohl(grant->lease);
	__u32 duration = bpf_ntohl(grant->duration);
	__u64 epoch = bpf_be64_to_cpu(grant->epoch);
	const volatile struct lease *lease;
	__u64 until;

	grant->duration = 0;
	grant->epoch = 0;
	if (echo && duration <= LONGEST_GRANT && epoch && !(epoch >> 63))
		grant_lease(number, place, epoch, echo + duration * MILLISECOND);
	lease = bpf_map_lookup_elem(&leases, &number);
	if (!lease)
		return;
	until = lease->holds_until;
	if (until > now)
		grant->duration = bpf_htonl((until - now + MILLISECOND - 1) / MILLISECOND);
	grant->epoch = bpf_cpu_to_be64(lease->epoch);
}

/* 1: the packet became the answer, to be sent where it came from. 0: no probe, and nothing changed. -1: half of it. */
__noinline int answer_probe(struct __sk_buff *skb)
{
	__u32 checksum = NETWORK + __builtin_offsetof(struct probe_frame, udp.check);
	__u32 offset = NETWORK + sizeof(struct probe_frame);
	const struct voters *known;
	struct probe_frame frame;
	__u8 macs[2 * ETH_ALEN];
	__u32 place = VOTERS, zero = 0, sum = 0;
	__u64 now, echo;
	__be32 address;
	__be16 before, after;

	if (bpf_skb_load_bytes(skb, NETWORK, &frame, sizeof(frame)) || !probe_is_whole(skb, &frame) ||
	    bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return 0;
	now = bpf_ktime_get_ns();
	echo = bpf_be64_to_cpu(frame.probe.echo);
	if (echo > now || now - echo >= ECHO_AGE)
		echo = 0;
	known = bpf_map_lookup_elem(&voters, &zero);
	if (known)
		place = place_of_voter(known, frame.ip.saddr);
	if (place >= VOTERS)
		echo = 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < PROBE_GRANTS; i++) {
		struct probe_grant old, new;

		if (i >= frame.probe.grants)
			break;
		if (bpf_skb_load_bytes(skb, offset, &old, sizeof(old)))
			return -1;
		new = old;
		probe_grant(place, echo, now, &new);
		sum = bpf_csum_diff((__be32 *)&old, sizeof(old), (__be32 *)&new, sizeof(new), sum);
		if (bpf_skb_store_bytes(skb, offset, &new, sizeof(new), 0))
			return -1;
		offset += sizeof(new);
	}

	/* What changes in the header: the word with the kind, the flags, the gateway's clock. */
	sum = bpf_csum_diff((__be32 *)&frame.probe, sizeof(frame.probe), NULL, 0, sum);
	frame.probe.kind = PROBE_ANSWER;
	frame.probe.flags = known && known->heartbeat && (__s64)(now - known->heartbeat) < (__s64)VOTER_SILENCE
				    ? bpf_htonl(PROBE_VOTER_ALIVE)
				    : 0;
	frame.probe.gateway_clock = bpf_cpu_to_be64(now);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&frame.probe, sizeof(frame.probe), sum);
	before = bpf_htons(frame.ip.ttl << 8);
	frame.ip.ttl = 64;
	after = bpf_htons(frame.ip.ttl << 8);
	frame.ip.check = checksum_apply(frame.ip.check, (__u32)(__u16)~before + after);
	address = frame.ip.saddr;
	frame.ip.saddr = frame.ip.daddr;
	frame.ip.daddr = address;
	/* The checksum last, as it is in `frame` too. A request without one gets an answer without. */
	if (bpf_skb_store_bytes(skb, NETWORK, &frame, sizeof(frame), 0) ||
	    bpf_l4_csum_replace(skb, checksum, 0, sum, BPF_F_MARK_MANGLED_0) ||
	    bpf_skb_store_bytes(skb, 0, macs + ETH_ALEN, ETH_ALEN, 0) ||
	    bpf_skb_store_bytes(skb, ETH_ALEN, macs, ETH_ALEN, 0))
		return -1;
	return 1;
}

/* Asked of every packet on the wire: whether a closer look is worth it. */
static __always_inline bool may_be_probe(const struct config *config, const struct packet *packet)
{
	return packet->protocol == IPPROTO_UDP && packet->destination_port == bpf_htons(PROBE_PORT) &&
	       config->address_v4 && packet->destination.word[3] == config->address_v4;
}
