/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Virtual addresses are on no interface: who asks for one on the link is answered here (RFC 826, RFC 4861), for as long
 * as this node holds the lease, and not while the voter keeps the address silent.
 */
#pragma once

#include "send.h"

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_size;
	__u8 protocol_size;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

struct neighbour_message {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 flags;
	struct address target;
	__u8 option;
	__u8 option_size;	/* in units of eight bytes */
	__u8 mac[ETH_ALEN];
};

#define SOLICITATION 135
#define ADVERTISEMENT 136
#define SOLICITATION_SIZE __builtin_offsetof(struct neighbour_message, option)
#define SOLICITED 0x40000000U
#define OVERRIDE 0x20000000U
#define TARGET_MAC 2

/* Our MAC on the link, when the address is ours to answer for there; else NULL. */
static __always_inline const __u8 *mac_for(const struct __sk_buff *skb, const struct address *address)
{
	struct announced_key key = { .address = *address, .ifindex = skb->ifindex };
	const struct announced *found = bpf_map_lookup_elem(&announced, &key);
	const struct wire *wire;

	if (!found || (found->flags & ANNOUNCED_SILENT) || !lease_is_held(found->lease))
		return NULL;
	wire = bpf_map_lookup_elem(&wires, &key.ifindex);
	return wire ? wire->mac : NULL;
}

/* 1: the ARP request became its answer. 0: nothing to answer. */
__noinline int answer_arp(struct __sk_buff *skb)
{
	struct {
		__u8 to[ETH_ALEN];
		__u8 from[ETH_ALEN];
		__be16 type;
		struct arp arp;
	} __attribute__((packed)) frame;
	struct address address;
	const __u8 *mac;
	__be32 asked;

	if (skb->vlan_present || bpf_skb_load_bytes(skb, 0, &frame, sizeof(frame)) ||
	    frame.arp.hardware != bpf_htons(ARPHRD_ETHER) || frame.arp.protocol != bpf_htons(ETH_P_IP) ||
	    frame.arp.hardware_size != ETH_ALEN || frame.arp.protocol_size != sizeof(__be32) ||
	    frame.arp.operation != bpf_htons(ARPOP_REQUEST))
		return 0;
	/* Who asks for its own address claims it, which is for the voter to judge. */
	asked = frame.arp.target;
	if (frame.arp.sender == asked)
		return 0;
	address_from_v4(&address, asked);
	mac = mac_for(skb, &address);
	if (!mac)
		return 0;
	__builtin_memcpy(frame.to, frame.arp.sender_mac, ETH_ALEN);
	__builtin_memcpy(frame.from, mac, ETH_ALEN);
	frame.arp.operation = bpf_htons(ARPOP_REPLY);
	__builtin_memcpy(frame.arp.target_mac, frame.arp.sender_mac, ETH_ALEN);
	__builtin_memcpy(frame.arp.sender_mac, mac, ETH_ALEN);
	frame.arp.target = frame.arp.sender;
	frame.arp.sender = asked;
	return !bpf_skb_store_bytes(skb, 0, &frame, sizeof(frame), 0);
}

/* 1: the solicitation became an advertisement. 0: nothing to answer. -1: half of it. */
__noinline int answer_solicitation(struct __sk_buff *skb)
{
	struct {
		struct ipv6hdr ip;
		struct neighbour_message message;
	} frame = {};
	__u8 macs[2 * ETH_ALEN];
	const __u8 *mac;
	bool duplicate;
	__u32 sum;

	if (skb->vlan_present || bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) ||
	    bpf_skb_load_bytes(skb, NETWORK, &frame, sizeof(frame.ip) + SOLICITATION_SIZE) || frame.ip.version != 6 ||
	    frame.ip.nexthdr != IPPROTO_ICMPV6 || frame.ip.hop_limit != 255 ||
	    bpf_ntohs(frame.ip.payload_len) < SOLICITATION_SIZE || frame.message.type != SOLICITATION ||
	    frame.message.code)
		return 0;
	mac = mac_for(skb, &frame.message.target);
	if (!mac)
		return 0;

	/* From nowhere: somebody who wants the address for himself asks. All nodes hear the answer (RFC 4861, 7.2.4). */
	__builtin_memcpy(&frame.ip.daddr, &frame.ip.saddr, sizeof(frame.ip.daddr));
	duplicate = address_is_zero((struct address *)&frame.ip.daddr);
	if (duplicate) {
		frame.ip.daddr.s6_addr32[0] = bpf_htonl(0xff020000);
		frame.ip.daddr.s6_addr32[3] = bpf_htonl(1);
	}
	__builtin_memcpy(macs, macs + ETH_ALEN, ETH_ALEN);
	if (duplicate)
		__builtin_memcpy(macs, (__u8[]){ 0x33, 0x33, 0, 0, 0, 1 }, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, mac, ETH_ALEN);
	__builtin_memcpy(&frame.ip.saddr, &frame.message.target, sizeof(frame.ip.saddr));
	frame.ip.payload_len = bpf_htons(sizeof(frame.message));
	frame.message.type = ADVERTISEMENT;
	frame.message.checksum = 0;
	frame.message.flags = bpf_htonl(duplicate ? OVERRIDE : SOLICITED | OVERRIDE);
	frame.message.option = TARGET_MAC;
	frame.message.option_size = 1;
	__builtin_memcpy(frame.message.mac, mac, ETH_ALEN);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&frame.ip.saddr, sizeof(frame.ip.saddr) + sizeof(frame.ip.daddr), 0);
	sum = checksum_fold(sum) + bpf_htons(sizeof(frame.message)) + bpf_htons(IPPROTO_ICMPV6);
	frame.message.checksum =
		~checksum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&frame.message, sizeof(frame.message), sum));
	if (bpf_skb_change_tail(skb, NETWORK + sizeof(frame), 0) ||
	    bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0) ||
	    bpf_skb_store_bytes(skb, NETWORK, &frame, sizeof(frame), 0))
		return -1;
	return 1;
}

/* Out again where it came in, past our own guard. */
static __always_inline int send_back(struct __sk_buff *skb, __u32 program, __u32 reason)
{
	count(skb, program, reason);
	skb->mark = MARK_TRANSLATED;
	return bpf_redirect(skb->ifindex, 0);
}
