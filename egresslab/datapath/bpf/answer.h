/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * ICMP errors of our own: the packet in hand becomes the answer to its sender. The redirects bypass the stack, so what
 * a router owes (RFC 1812 section 4.3, RFC 4443) is owed here.
 *
 * A packet whose transport checksum was still to be computed keeps that state with its quoted header. On virtual
 * links it is never computed, and no stack checks the checksum of a quotation.
 */
#pragma once

#include "send.h"

static __always_inline void answer_kind(int family, __u32 reason, __u32 mtu, struct icmp_answer *answer)
{
	answer->mtu = reason == TOO_BIG ? mtu : 0;
	if (family == AF_INET) {
		answer->type = reason == TOO_BIG ? ICMP_DEST_UNREACH : ICMP_TIME_EXCEEDED;
		answer->code = reason == TOO_BIG ? ICMP_FRAG_NEEDED : 0;
	} else {
		answer->type = reason == TOO_BIG ? ICMPV6_PKT_TOOBIG : ICMPV6_TIME_EXCEED;
		answer->code = 0;
	}
}

/* RFC 1122 section 3.2.2: never an error about an error, nor about a later fragment. */
static __always_inline bool may_be_answered(const struct packet *packet)
{
	return packet->transport != TRANSPORT_ERROR && packet->part != FRAGMENT_LATER;
}

struct header_v4 {
	struct iphdr ip;
	struct icmphdr icmp;
};

struct header_v6 {
	struct ipv6hdr ip;
	struct icmp6hdr icmp;
};

struct pseudo_header {
	struct address source;
	struct address destination;
	__be32 length;
	__be32 next;
};

/* Headers of the answer below `subject->header`; `sum` is that of the quotation. */
static __always_inline void write_header_v4(struct subject *subject, __u32 size, __wsum sum)
{
	struct header_v4 *header = (void *)subject->header;

	header->ip.version = 4;
	header->ip.ihl = 5;
	header->ip.tos = 0xc0;	/* internetwork control, RFC 1812 section 4.3.2.5 */
	header->ip.tot_len = bpf_htons(sizeof(*header) + size);
	header->ip.ttl = 64;
	header->ip.protocol = IPPROTO_ICMP;
	header->ip.saddr = subject->answer.source.word[3];
	header->ip.daddr = subject->packet.source.word[3];
	header->ip.check = ~checksum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&header->ip, sizeof(header->ip), 0));
	header->icmp.type = subject->answer.type;
	header->icmp.code = subject->answer.code;
	header->icmp.un.frag.mtu = bpf_htons(subject->answer.mtu);
	header->icmp.checksum =
		~checksum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&header->icmp, sizeof(header->icmp), sum));
}

static __always_inline void write_header_v6(struct subject *subject, __u32 size, __wsum sum)
{
	struct header_v6 *header = (void *)subject->header;
	struct pseudo_header *pseudo = (void *)subject->pseudo;

	pseudo->source = subject->answer.source;
	pseudo->destination = subject->packet.source;
	pseudo->length = bpf_htonl(sizeof(header->icmp) + size);
	pseudo->next = bpf_htonl(IPPROTO_ICMPV6);
	header->ip.version = 6;
	header->ip.payload_len = bpf_htons(sizeof(header->icmp) + size);
	header->ip.nexthdr = IPPROTO_ICMPV6;
	header->ip.hop_limit = 64;
	__builtin_memcpy(&header->ip.saddr, &pseudo->source, sizeof(pseudo->source));
	__builtin_memcpy(&header->ip.daddr, &pseudo->destination, sizeof(pseudo->destination));
	header->icmp.icmp6_type = subject->answer.type;
	header->icmp.icmp6_code = subject->answer.code;
	header->icmp.icmp6_mtu = bpf_htonl(subject->answer.mtu);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)pseudo, sizeof(*pseudo), sum);
	header->icmp.icmp6_cksum =
		~checksum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&header->icmp, sizeof(header->icmp), sum));
}

/* Turns the packet round into the ICMP error `subject->answer`; false when the kernel refused a step. */
static __always_inline bool make_answer(struct __sk_buff *skb, int family, struct subject *subject)
{
	__u8 macs[2 * ETH_ALEN], turned[2 * ETH_ALEN];
	__u32 room = family == AF_INET ? sizeof(struct header_v4) : sizeof(struct header_v6);
	__u32 size = subject->packet.length;
	__wsum sum;

	if (size > QUOTED)
		size = QUOTED;
	if (size < 28)
		return false;
	__builtin_memset(subject->quotation, 0, sizeof(subject->quotation));
	__builtin_memset(subject->header, 0, sizeof(subject->header));
	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) ||
	    bpf_skb_load_bytes(skb, NETWORK, subject->quotation, size))
		return false;
	sum = bpf_csum_diff(NULL, 0, (__be32 *)subject->quotation, sizeof(subject->quotation), 0);
	if (family == AF_INET)
		write_header_v4(subject, size, sum);
	else
		write_header_v6(subject, size, sum);
	__builtin_memcpy(turned, macs + ETH_ALEN, ETH_ALEN);
	__builtin_memcpy(turned + ETH_ALEN, macs, ETH_ALEN);
	return !bpf_skb_change_tail(skb, NETWORK + size, 0) &&
	       !bpf_skb_adjust_room(skb, room, BPF_ADJ_ROOM_MAC, 0) &&
	       !bpf_skb_store_bytes(skb, 0, turned, sizeof(turned), 0) &&
	       !bpf_skb_store_bytes(skb, NETWORK, subject->header, room, BPF_F_RECOMPUTE_CSUM);
}
