/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A TCP reset of our own, in the name of the remote side, for a segment of a connection that this gateway does not know:
 * what a closed port answers (RFC 9293, section 3.10.7.1). Headers between Ethernet and TCP stay where they are, so that
 * a checksum that a card has yet to compute starts where it did.
 */
#pragma once

#include "rewrite.h"

/* Whether the checksum field at `offset` holds the pseudo header's part only (CHECKSUM_PARTIAL): the kernel then leaves
 * it alone when something behind the pseudo header changes. The field is changed otherwise. */
static __always_inline bool checksum_is_partial(struct __sk_buff *skb, __u32 offset, __sum16 before)
{
	__sum16 after;

	return !bpf_l4_csum_replace(skb, offset, 0, 1, 0) &&
	       !bpf_skb_load_bytes(skb, offset, &after, sizeof(after)) && before == after;
}

static __always_inline long reset_network(struct __sk_buff *skb, int family, struct subject *subject, __u32 length)
{
	const struct packet *packet = &subject->packet;

	if (family == AF_INET) {
		struct iphdr *ip = (void *)subject->header;
		__u32 difference;
		__be16 old[2], new[2];

		if (bpf_skb_load_bytes(skb, NETWORK, ip, sizeof(*ip)))
			return -1;
		old[0] = ip->tot_len;
		old[1] = bpf_htons(ip->ttl << 8);
		ip->tot_len = bpf_htons(length);
		ip->ttl = 64;
		new[0] = ip->tot_len;
		new[1] = bpf_htons(ip->ttl << 8);
		difference = bpf_csum_diff((__be32 *)old, sizeof(old), (__be32 *)new, sizeof(new), 0);
		ip->check = checksum_apply(ip->check, difference);
		ip->saddr = packet->destination.word[3];
		ip->daddr = packet->source.word[3];
		return bpf_skb_store_bytes(skb, NETWORK, ip, sizeof(*ip), 0);
	} else {
		struct ipv6hdr *ip = (void *)subject->header;

		if (bpf_skb_load_bytes(skb, NETWORK, ip, sizeof(*ip)))
			return -1;
		ip->payload_len = bpf_htons(length - sizeof(*ip));
		ip->hop_limit = 64;
		__builtin_memcpy(&ip->saddr, &packet->destination, sizeof(ip->saddr));
		__builtin_memcpy(&ip->daddr, &packet->source, sizeof(ip->daddr));
		return bpf_skb_store_bytes(skb, NETWORK, ip, sizeof(*ip), BPF_F_RECOMPUTE_CSUM);
	}
}

/* Turns the packet round into a reset; false when the kernel refused a step. */
static __always_inline bool make_reset(struct __sk_buff *skb, int family, struct subject *subject)
{
	const struct packet *packet = &subject->packet;
	__u32 offset = packet->transport_offset;
	__u8 macs[2 * ETH_ALEN], turned[2 * ETH_ALEN];
	struct tcphdr tcp, reset = {};
	__u32 data = packet->length + NETWORK - offset - packet->tcp_header;
	bool partial;
	__u32 sum;

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) || bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)))
		return false;
	partial = checksum_is_partial(skb, offset + __builtin_offsetof(struct tcphdr, check), tcp.check);
	reset.source = tcp.dest;
	reset.dest = tcp.source;
	reset.doff = sizeof(reset) / 4;
	reset.rst = 1;
	if (tcp.ack) {
		reset.seq = tcp.ack_seq;
	} else {
		reset.ack = 1;
		reset.ack_seq = bpf_htonl(bpf_ntohl(tcp.seq) + data + tcp.syn + tcp.fin);
	}

	/* The pseudo header, RFC 9293 section 3.1 and RFC 8200 section 8.1; the other half of the sum is the segment's. */
	if (family == AF_INET)
		sum = bpf_csum_diff(NULL, 0, (__be32 *)&packet->source.word[3], 4, 0),
		sum = bpf_csum_diff(NULL, 0, (__be32 *)&packet->destination.word[3], 4, sum);
	else
		sum = bpf_csum_diff(NULL, 0, (__be32 *)&packet->source, sizeof(packet->source), 0),
		sum = bpf_csum_diff(NULL, 0, (__be32 *)&packet->destination, sizeof(packet->destination), sum);
	sum = checksum_fold(sum) + bpf_htons(IPPROTO_TCP) + bpf_htons(sizeof(reset));
	if (partial)
		reset.check = checksum_fold(sum);
	else
		reset.check = ~checksum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&reset, sizeof(reset), sum));

	__builtin_memcpy(turned, macs + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(turned + ETH_ALEN, macs, ETH_ALEN);
	return !bpf_skb_change_tail(skb, offset + sizeof(reset), 0) &&
	       !bpf_skb_store_bytes(skb, 0, turned, sizeof(turned), 0) &&
	       !reset_network(skb, family, subject, offset - NETWORK + sizeof(reset)) &&
	       !bpf_skb_store_bytes(skb, offset, &reset, sizeof(reset), BPF_F_RECOMPUTE_CSUM);
}
