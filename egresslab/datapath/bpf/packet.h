/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Reading a packet: network header, transport header, and the packet that an ICMP error quotes.
 *
 * Reading goes through bpf_skb_load_bytes(), which also reaches bytes outside the linear part of an skb. The family
 * is a constant wherever these are called, so each caller is compiled for one.
 */
#pragma once

#include "contract.h"

enum transport {
	TRANSPORT_UNKNOWN,
	TRANSPORT_PORTS,	/* TCP, UDP */
	TRANSPORT_ECHO,
	TRANSPORT_ECHO_REPLY,
	TRANSPORT_ERROR,	/* ICMP error that quotes a packet */
	TRANSPORT_ICMP_OTHER,
};

enum fragment_part {
	FRAGMENT_NONE,
	FRAGMENT_FIRST,
	FRAGMENT_LATER,		/* has no transport header */
};

/* For echo, the asking side's port is the identifier and the answering side's is 0. */
struct packet {
	struct address source;
	struct address destination;
	__u32 transport_offset;	/* from the frame's first byte */
	__u32 length;		/* of the IP packet; of a GSO packet, of everything */
	__u32 fragment_id;
	__be16 source_port;
	__be16 destination_port;
	__sum16 header_checksum;	/* IPv4 */
	__u8 protocol;
	__u8 transport;		/* enum transport */
	__u8 part;		/* enum fragment_part */
	__u8 hop_limit;
	__u8 tcp_flags;
	__u8 tcp_header;	/* bytes */
	__u8 may_fragment;
};

#define NETWORK ETH_HLEN
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_FLAGS 0x3f	/* those of RFC 793; flow.tcp_flags has other uses for the bits above */
#define MAPPED_PREFIX bpf_htonl(0xffff)

static __always_inline void address_from_v4(struct address *address, __be32 v4)
{
	address->word[0] = 0;
	address->word[1] = 0;
	address->word[2] = MAPPED_PREFIX;
	address->word[3] = v4;
}

static __always_inline bool address_equal(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

static __always_inline bool address_is_zero(const struct address *a)
{
	return !(a->word[0] | a->word[1] | a->word[2] | a->word[3]);
}

/* Multicast, broadcast and IPv6 link-local: never forwarded, so never ours. */
static __always_inline bool never_leaves_link(int family, const struct address *destination)
{
	if (family == AF_INET)
		return (destination->word[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
		       destination->word[3] == 0xffffffff;
	return (destination->word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000) ||
	       (destination->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline bool opens_connection(const struct packet *packet)
{
	return packet->protocol != IPPROTO_TCP || (packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline int parse_network_v4(struct __sk_buff *skb, __u32 at, struct packet *packet)
{
	struct iphdr ip;
	__u16 fragment;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return INVALID_PACKET;
	fragment = bpf_ntohs(ip.frag_off);
	packet->length = skb->gso_size ? skb->len - at : bpf_ntohs(ip.tot_len);
	if (packet->length < ip.ihl * 4U || packet->length > skb->len - at)
		return INVALID_PACKET;
	address_from_v4(&packet->source, ip.saddr);
	address_from_v4(&packet->destination, ip.daddr);
	packet->transport_offset = at + ip.ihl * 4;
	packet->protocol = ip.protocol;
	packet->hop_limit = ip.ttl;
	packet->may_fragment = !(fragment & 0x4000);
	packet->fragment_id = ip.id;
	packet->header_checksum = ip.check;
	if (fragment & 0x1fff)
		packet->part = FRAGMENT_LATER;
	else if (fragment & 0x2000)
		packet->part = FRAGMENT_FIRST;
	return NONE;
}

/* Extension headers are walked later: who only wants the addresses need not pay for them. */
static __always_inline int parse_network_v6(struct __sk_buff *skb, __u32 at, struct packet *packet)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) || ip.version != 6)
		return INVALID_PACKET;
	packet->length = skb->gso_size ? skb->len - at : sizeof(ip) + bpf_ntohs(ip.payload_len);
	if (packet->length > skb->len - at)
		return INVALID_PACKET;
	__builtin_memcpy(&packet->source, &ip.saddr, sizeof(packet->source));
	__builtin_memcpy(&packet->destination, &ip.daddr, sizeof(packet->destination));
	packet->transport_offset = at + sizeof(ip);
	packet->protocol = ip.nexthdr;
	packet->hop_limit = ip.hop_limit;
	return NONE;
}

static __always_inline int parse_network(struct __sk_buff *skb, int family, struct packet *packet)
{
	return family == AF_INET ? parse_network_v4(skb, NETWORK, packet) : parse_network_v6(skb, NETWORK, packet);
}

/*
 * Hop-by-hop and destination options are stepped over, a fragment header is read. A routing header would make the
 * destination a lie, and everything else is no transport that we know.
 */
static __always_inline int skip_extensions(struct __sk_buff *skb, struct packet *packet)
{
	for (int i = 0; i < 4; i++) {
		struct {
			__u8 next;
			__u8 length;
			__be16 offset;
			__be32 id;
		} extension;

		if (packet->protocol != IPPROTO_HOPOPTS && packet->protocol != IPPROTO_DSTOPTS &&
		    packet->protocol != IPPROTO_FRAGMENT)
			return packet->protocol == IPPROTO_ROUTING ? EXTENSION_HEADER : NONE;
		if (bpf_skb_load_bytes(skb, packet->transport_offset, &extension, sizeof(extension)))
			return INVALID_PACKET;
		if (packet->protocol == IPPROTO_FRAGMENT) {
			packet->fragment_id = extension.id;
			packet->transport_offset += sizeof(extension);
			packet->protocol = extension.next;
			if (extension.offset & bpf_htons(0xfff8)) {
				packet->part = FRAGMENT_LATER;
				return NONE;
			}
			if (extension.offset & bpf_htons(0x0001))
				packet->part = FRAGMENT_FIRST;
			continue;
		}
		packet->transport_offset += (extension.length + 1) * 8;
		packet->protocol = extension.next;
	}
	return EXTENSION_HEADER;
}

static __always_inline __u8 icmp_transport(int family, __u8 type)
{
	if (family == AF_INET) {
		switch (type) {
		case ICMP_ECHO:
			return TRANSPORT_ECHO;
		case ICMP_ECHOREPLY:
			return TRANSPORT_ECHO_REPLY;
		case ICMP_DEST_UNREACH:
		case ICMP_TIME_EXCEEDED:
		case ICMP_PARAMETERPROB:
			return TRANSPORT_ERROR;
		default:
			return TRANSPORT_ICMP_OTHER;
		}
	}
	switch (type) {
	case ICMPV6_ECHO_REQUEST:
		return TRANSPORT_ECHO;
	case ICMPV6_ECHO_REPLY:
		return TRANSPORT_ECHO_REPLY;
	case ICMPV6_DEST_UNREACH:
	case ICMPV6_PKT_TOOBIG:
	case ICMPV6_TIME_EXCEED:
	case ICMPV6_PARAMPROB:
		return TRANSPORT_ERROR;
	default:
		return TRANSPORT_ICMP_OTHER;
	}
}

/* The first eight bytes of TCP, UDP and ICMP, as far as we care for them. */
struct transport_start {
	union {
		struct {
			__be16 source_port;
			__be16 destination_port;
		};
		struct {
			__u8 icmp_type;
			__u8 icmp_code;
			__be16 icmp_checksum;
		};
	};
	__be16 icmp_id;
	__be16 udp_checksum;
};

/* Fills ports and transport from `start`; false for a protocol that is not translated. */
static __always_inline bool read_ports(int family, __u8 protocol, const struct transport_start *start,
				       __be16 *source_port, __be16 *destination_port, __u8 *transport)
{
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
		*source_port = start->source_port;
		*destination_port = start->destination_port;
		*transport = TRANSPORT_PORTS;
		return true;
	}
	if (protocol != (family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return false;
	*transport = icmp_transport(family, start->icmp_type);
	*source_port = *transport == TRANSPORT_ECHO ? start->icmp_id : 0;
	*destination_port = *transport == TRANSPORT_ECHO_REPLY ? start->icmp_id : 0;
	return true;
}

/* A later fragment stays without ports; flows.h knows them from the first one. */
static __always_inline int parse_transport(struct __sk_buff *skb, int family, struct packet *packet)
{
	struct transport_start start;
	int reason;

	if (family == AF_INET6) {
		reason = skip_extensions(skb, packet);
		if (reason)
			return reason;
	}
	if (packet->part == FRAGMENT_LATER)
		return NONE;
	if (bpf_skb_load_bytes(skb, packet->transport_offset, &start, sizeof(start)))
		return packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP ? INVALID_PACKET
											    : UNKNOWN_PROTOCOL;
	if (!read_ports(family, packet->protocol, &start, &packet->source_port, &packet->destination_port,
			&packet->transport))
		return UNKNOWN_PROTOCOL;
	if (packet->protocol == IPPROTO_TCP) {
		__u8 tail[2];

		/* Reading up to the urgent pointer also proves that the checksum is there. */
		if (bpf_skb_load_bytes(skb, packet->transport_offset + 12, tail, sizeof(tail)) ||
		    packet->transport_offset + sizeof(struct tcphdr) > skb->len || (tail[0] >> 4) < 5)
			return INVALID_PACKET;
		packet->tcp_header = (tail[0] >> 4) * 4;
		packet->tcp_flags = tail[1] & TCP_FLAGS;
	}
	return NONE;
}

/* The packet that an ICMP error is about, as far as it is quoted. */
struct quoted {
	struct address source;
	struct address destination;
	__u32 network_offset;
	__u32 transport_offset;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 transport;
};

static __always_inline int parse_quoted(struct __sk_buff *skb, int family, const struct packet *packet,
					struct quoted *quoted)
{
	struct transport_start start;

	quoted->network_offset = packet->transport_offset + sizeof(struct icmphdr);
	if (family == AF_INET) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, quoted->network_offset, &ip, sizeof(ip)) || ip.version != 4 ||
		    ip.ihl < 5 || (ip.frag_off & bpf_htons(0x1fff)))
			return INVALID_PACKET;
		address_from_v4(&quoted->source, ip.saddr);
		address_from_v4(&quoted->destination, ip.daddr);
		quoted->protocol = ip.protocol;
		quoted->transport_offset = quoted->network_offset + ip.ihl * 4;
	} else {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, quoted->network_offset, &ip, sizeof(ip)) || ip.version != 6)
			return INVALID_PACKET;
		__builtin_memcpy(&quoted->source, &ip.saddr, sizeof(quoted->source));
		__builtin_memcpy(&quoted->destination, &ip.daddr, sizeof(quoted->destination));
		quoted->protocol = ip.nexthdr;
		quoted->transport_offset = quoted->network_offset + sizeof(ip);
		if (quoted->protocol == IPPROTO_FRAGMENT) {
			struct frag_hdr {
				__u8 next;
				__u8 reserved;
				__be16 offset;
				__be32 id;
			} fragment;

			if (bpf_skb_load_bytes(skb, quoted->transport_offset, &fragment, sizeof(fragment)) ||
			    (fragment.offset & bpf_htons(0xfff8)))
				return INVALID_PACKET;
			quoted->protocol = fragment.next;
			quoted->transport_offset += sizeof(fragment);
		}
	}
	if (bpf_skb_load_bytes(skb, quoted->transport_offset, &start, sizeof(start)))
		return INVALID_PACKET;
	if (!read_ports(family, quoted->protocol, &start, &quoted->source_port, &quoted->destination_port,
			&quoted->transport) ||
	    quoted->transport == TRANSPORT_ERROR || quoted->transport == TRANSPORT_ICMP_OTHER)
		return UNKNOWN_PROTOCOL;
	return NONE;
}
