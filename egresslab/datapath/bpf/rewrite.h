/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Changing packets so that every checksum stays right, also where the kernel or the card has yet to compute it.
 *
 * - Transport checksums go through bpf_l4_csum_replace(): only the kernel knows whether the field holds a checksum or
 *   the pseudo header's part of one (CHECKSUM_PARTIAL). Addresses are part of the pseudo header, ports are not.
 * - An IPv4 header is stored with its own checksum corrected, so its sum, and with it CHECKSUM_COMPLETE, is unchanged.
 * - An IPv6 header has none. There bpf_l4_csum_replace() moves CHECKSUM_COMPLETE by the transport checksum's change,
 *   and BPF_F_RECOMPUTE_CSUM on the address moves it back.
 * - GSO packets need nothing: segments are cut from the rewritten header.
 */
#pragma once

#include "subject.h"

static __always_inline __u16 checksum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* RFC 1624, equation 3, for a difference from bpf_csum_diff(). */
static __always_inline __sum16 checksum_apply(__sum16 checksum, __u32 difference)
{
	__u32 folded = checksum_fold(difference);

	return ~checksum_fold((__u16)~checksum + folded);
}

static __always_inline __u32 transport_checksum_offset(const struct packet *packet)
{
	switch (packet->protocol) {
	case IPPROTO_TCP:
		return packet->transport_offset + __builtin_offsetof(struct tcphdr, check);
	case IPPROTO_UDP:
		return packet->transport_offset + __builtin_offsetof(struct udphdr, check);
	default:
		return packet->transport_offset + __builtin_offsetof(struct icmphdr, checksum);
	}
}

static __always_inline __u32 address_difference(int family, const struct address *from, const struct address *to)
{
	if (family == AF_INET) {
		__u64 sum = (__u64)(__u32)~from->word[3] + to->word[3];

		return (__u32)sum + (__u32)(sum >> 32);
	}
	return bpf_csum_diff((__be32 *)from, sizeof(*from), (__be32 *)to, sizeof(*to), 0);
}

/* Source or destination address, and the hop that this node is (1 where it forwards, else 0), in the network header. */
static __always_inline long rewrite_network(struct __sk_buff *skb, int family, const struct packet *packet,
					    bool source, const struct address *to, __u32 difference, __u8 hop)
{
	if (family == AF_INET) {
		struct {
			__u8 ttl;
			__u8 protocol;
			__sum16 checksum;
			__be32 source;
			__be32 destination;
		} now = {
			.ttl = packet->hop_limit - hop,
			.protocol = packet->protocol,
			.source = source ? to->word[3] : packet->source.word[3],
			.destination = source ? packet->destination.word[3] : to->word[3],
		};
		__be16 hops_before = bpf_htons(packet->hop_limit << 8);
		__be16 hops_after = bpf_htons((packet->hop_limit - hop) << 8);

		now.checksum = checksum_apply(packet->header_checksum, difference);
		now.checksum = checksum_apply(now.checksum, (__u32)(__u16)~hops_before + hops_after);
		return bpf_skb_store_bytes(skb, NETWORK + 8, &now, sizeof(now), 0);
	} else {
		__u8 hop_limit = packet->hop_limit - hop;

		return bpf_skb_store_bytes(skb, NETWORK + 7, &hop_limit, sizeof(hop_limit), BPF_F_RECOMPUTE_CSUM) ||
		       bpf_skb_store_bytes(skb, NETWORK + (source ? 8 : 24), to, sizeof(*to), BPF_F_RECOMPUTE_CSUM);
	}
}

/* Translate one side of a packet; the port is the identifier of an ICMP echo. */
static __always_inline long rewrite(struct __sk_buff *skb, int family, const struct packet *packet, bool source,
				    const struct address *to, __be16 new_port, __u8 hop)
{
	__be16 old_port = source ? packet->source_port : packet->destination_port;
	const struct address *from = source ? &packet->source : &packet->destination;
	bool icmp = packet->protocol == IPPROTO_ICMP || packet->protocol == IPPROTO_ICMPV6;
	__u64 zero_is_none = packet->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__u32 checksum = transport_checksum_offset(packet);
	__u32 difference = address_difference(family, from, to);

	if (packet->part != FRAGMENT_LATER) {
		if (packet->protocol != IPPROTO_ICMP &&
		    bpf_l4_csum_replace(skb, checksum, 0, difference,
					BPF_F_PSEUDO_HDR | zero_is_none))
			return -1;
		if (old_port != new_port) {
			__u32 offset = packet->transport_offset + (icmp ? 4 : source ? 0 : 2);

			if (bpf_l4_csum_replace(skb, checksum, old_port, new_port, 2 | zero_is_none) ||
			    bpf_skb_store_bytes(skb, offset, &new_port, sizeof(new_port), 0))
				return -1;
		}
	}
	return rewrite_network(skb, family, packet, source, to, difference, hop);
}

/* Two bytes inside an ICMP message, which its checksum at `checksum` covers. */
static __always_inline long patch_quoted(struct __sk_buff *skb, __u32 checksum, __u32 offset, __be16 value)
{
	__be16 old;

	if (bpf_skb_load_bytes(skb, offset, &old, sizeof(old)))
		return -1;
	return bpf_l4_csum_replace(skb, checksum, old, value, 2) ||
	       bpf_skb_store_bytes(skb, offset, &value, sizeof(value), 0);
}

/*
 * An ICMP error about a translated packet becomes `subject->to`: `outer_source` says which side of the error's own header changes; the quoted
 * packet went the other way, so its opposite side changes with it, together with the checksums that it quotes.
 */
static __always_inline long rewrite_error(struct __sk_buff *skb, int family, struct subject *subject,
					  bool outer_source, __u8 hop)
{
	const struct packet *packet = &subject->packet;
	const struct quoted *quoted = &subject->quoted;
	const struct address *to = &subject->to;
	__be16 new_port = subject->to_port;
	bool inner_source = !outer_source;
	const struct address *from = inner_source ? &quoted->source : &quoted->destination;
	__be16 old_port = inner_source ? quoted->source_port : quoted->destination_port;
	__u32 difference = address_difference(family, from, to);
	__u32 ports = (__u32)(__u16)~old_port + new_port;
	__u32 checksum = transport_checksum_offset(packet);
	bool icmp = quoted->transport != TRANSPORT_PORTS;
	__u32 port_offset = quoted->transport_offset + (icmp ? 4 : inner_source ? 0 : 2);
	__u32 quoted_checksum = quoted->transport_offset;
	__u32 address_offset;
	__sum16 value;

	/* The quoted transport checksum, where the quotation reaches that far. */
	quoted_checksum += quoted->protocol == IPPROTO_TCP ? 16 : quoted->protocol == IPPROTO_UDP ? 6 : 2;
	if (!bpf_skb_load_bytes(skb, quoted_checksum, &value, sizeof(value)) &&
	    (value || quoted->protocol != IPPROTO_UDP)) {
		if (quoted->protocol != IPPROTO_ICMP)
			value = checksum_apply(value, difference);
		value = checksum_apply(value, ports);
		if (!value && quoted->protocol == IPPROTO_UDP)
			value = 0xffff;
		if (patch_quoted(skb, checksum, quoted_checksum, value))
			return -1;
	}
	if (patch_quoted(skb, checksum, port_offset, new_port))
		return -1;

	if (family == AF_INET) {
		address_offset = quoted->network_offset + (inner_source ? 12 : 16);
		if (bpf_skb_load_bytes(skb, quoted->network_offset + 10, &value, sizeof(value)) ||
		    patch_quoted(skb, checksum, quoted->network_offset + 10, checksum_apply(value, difference)))
			return -1;
	} else {
		address_offset = quoted->network_offset + (inner_source ? 8 : 24);
	}
	if (bpf_l4_csum_replace(skb, checksum, 0, difference, 0) ||
	    bpf_skb_store_bytes(skb, address_offset, family == AF_INET ? (const void *)&to->word[3] : to,
				family == AF_INET ? 4 : 16, 0))
		return -1;

	/* The error's own header; ICMPv6 sums its addresses too. */
	difference = address_difference(family, outer_source ? &packet->source : &packet->destination, to);
	if (family == AF_INET6 && bpf_l4_csum_replace(skb, checksum, 0, difference, BPF_F_PSEUDO_HDR))
		return -1;
	return rewrite_network(skb, family, packet, outer_source, to, difference, hop);
}

/*
 * Lower the MSS that a SYN offers to what fits the tunnel (RFC 879, RFC 9293 section 3.7.1), so that neither side has
 * to find the path's MTU by losing packets. Packets without the option, or with a small one, are left alone.
 */
static __always_inline long clamp_mss(struct __sk_buff *skb, int family, const struct packet *packet, __u32 mtu)
{
	__u32 headers = (family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) + sizeof(struct tcphdr);
	__u32 offset = packet->transport_offset + sizeof(struct tcphdr);
	__u32 end = packet->transport_offset + packet->tcp_header;

	if (packet->protocol != IPPROTO_TCP || !(packet->tcp_flags & TCP_SYN) || packet->part == FRAGMENT_LATER ||
	    mtu <= headers)
		return 0;
	for (int i = 0; i < 10 && offset + 4 <= end; i++) {
		struct {
			__u8 kind;
			__u8 length;
			__be16 mss;
		} option;
		__be16 largest = bpf_htons(mtu - headers);

		if (bpf_skb_load_bytes(skb, offset, &option, sizeof(option)) || option.kind == 0)
			return 0;
		if (option.kind == 1) {
			offset += 1;
			continue;
		}
		if (option.kind == 2 && option.length == 4) {
			if (bpf_ntohs(option.mss) <= mtu - headers)
				return 0;
			/* Behind an odd number of paddings the two bytes straddle two words of the sum. */
			if ((offset - packet->transport_offset) & 1)
				return bpf_l4_csum_replace(skb, transport_checksum_offset(packet),
							   __builtin_bswap16(option.mss), __builtin_bswap16(largest),
							   2) ||
				       bpf_skb_store_bytes(skb, offset + 2, &largest, sizeof(largest), 0);
			return bpf_l4_csum_replace(skb, transport_checksum_offset(packet), option.mss, largest, 2) ||
			       bpf_skb_store_bytes(skb, offset + 2, &largest, sizeof(largest), 0);
		}
		if (option.length < 2)
			return 0;
		offset += option.length;
	}
	return 0;
}
