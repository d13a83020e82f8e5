/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The tunnel without its device. What the VXLAN device does to a packet costs more than all of ours: a second IP packet
 * is routed, filtered and tracked, on both nodes. So the usual packet is wrapped here and sent out of the underlay's
 * interface, and unwrapped where it comes in there. On the wire nothing tells one way from the other, and nodes need not
 * agree. The device does what is left over:
 *
 * - packets of several segments (GSO): only it can mark them as tunnelled, and unmark them;
 * - what does not fit the underlay in one piece, and what came in pieces;
 * - whatever is not beyond doubt: another header than we write, a tunnel that does not begin where it should.
 *
 * Nothing is overtaken. Both ways lead through one device queue in the order of sending. Where it is unwrapped, the device
 * puts a packet aside for a moment; so once a packet of several segments came out of it, a flow stays with the device
 * (SEGMENTED, in the flow's entry). Only a flow's entry that is lost in between can let a few packets swap places.
 *
 * `encapsulation` on an skb tells a card where the inner checksum begins. A card's driver makes new skbs for what it
 * receives; a veth link hands on the same, and no helper clears the mark. So it is not set on an underlay of that kind
 * (CONFIG_LEAVE_CHECKSUMS), where nothing computes checksums.
 *
 * An IPv6 packet becomes an IPv4 one by being wrapped, which the marks say to the kernel. Without them, and on the way
 * back, bpf_skb_change_proto() says it; it also takes the difference of the two headers off, or puts it on (CUT), and so
 * much more, or less, room is made. That much of the IPv6 header is then written again.
 */
#pragma once

#include "observe.h"
#include "policy.h"
#include "rewrite.h"

#define VXLAN_HAS_VNI bpf_htonl(0x08000000)
#define ECN 3
#define ECN_CE 3
#define ECN_ECT_0 2
#define LOOPBACK_IFINDEX 1

struct vxlan {
	__be32 flags;
	__be32 vni;	/* in the upper three bytes */
};

/* What is put between a frame's Ethernet header, which becomes the outer one's, and the packet. */
struct wrapping {
	struct iphdr ip;
	struct udphdr udp;
	struct vxlan vxlan;
	struct ethhdr frame;
	__u8 begin[sizeof(struct ipv6hdr) - sizeof(struct iphdr)];	/* of a header that was cut; see above */
};

#define WRAPPING __builtin_offsetof(struct wrapping, begin)
#define CUT (sizeof(struct ipv6hdr) - sizeof(struct iphdr))
_Static_assert(WRAPPING == 50, "RFC 7348: no padding");

/* On packets that were wrapped here. They leave at once. */
#define MARK_WRAPPED 0x00e60002
#define UNWRAPPED -2	/* no verdict of the kernel's */

static __always_inline __u32 header_sum(const struct iphdr *ip)
{
	const __u32 *word = (const void *)ip;
	__u64 sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];

	return checksum_fold((__u32)((sum & 0xffffffff) + (sum >> 32)));
}

/* The source port that the device would take, with which cards and paths spread flows. */
static __always_inline __be16 tunnel_source_port(struct __sk_buff *skb, const struct config *config)
{
	__u32 hash = bpf_get_hash_recalc(skb);

	hash ^= hash << 16;
	return bpf_htons(config->tunnel_port + (((__u64)hash * config->tunnel_ports) >> 32));
}

/* Of the outer header: what the device tells of the inner one's congestion (RFC 6040). */
static __always_inline __u8 outer_tos(__u8 tos)
{
	return (tos & ECN) == ECN_CE ? ECN_ECT_0 : tos & ECN;
}

/* Where the way to a node begins; false when it is not the underlay's interface, or the packet too large for it. */
static __always_inline bool underlay_route(struct __sk_buff *skb, const struct config *config, __be32 node, __u32 size,
					   struct bpf_redir_neigh *next_hop)
{
	__u32 ifindex = config->underlay_ifindex;
	const struct wire *wire = bpf_map_lookup_elem(&wires, &ifindex);
	struct bpf_fib_lookup fib = {
		.family = AF_INET,
		.l4_protocol = IPPROTO_UDP,
		.dport = config->overlay_port,
		.tot_len = size,
		.ifindex = LOOPBACK_IFINDEX,	/* as the node's own packets are routed */
		.ipv4_src = config->address_v4,
		.ipv4_dst = node,
	};
	long result;

	if (!wire || size > wire->mtu)
		return false;
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if ((result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH) || fib.ifindex != ifindex)
		return false;
	next_hop->nh_family = fib.family;
	if (fib.family == AF_INET)
		next_hop->ipv4_nh = fib.ipv4_dst;
	else
		__builtin_memcpy(next_hop->ipv6_nh, fib.ipv6_dst, sizeof(next_hop->ipv6_nh));
	return true;
}

/* What of a frame the wrapping repeats. */
struct wrapped {
	struct ethhdr frame;
	__u8 network[2];	/* version and type of service, or version and traffic class */
};

/* NONE: it is wrapped. UNWRAPPED: nothing changed. DROP: something did. */
static __always_inline int wrap(struct __sk_buff *skb, const struct config *config, const struct wrapped *inner,
				__be32 node, __u32 length)
{
	bool v6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	struct wrapping wrapping = {
		.ip = {
			.version = 4,
			.ihl = sizeof(wrapping.ip) / 4,
			.tos = outer_tos(v6 ? inner->network[1] >> 4 : inner->network[1]),
			.tot_len = bpf_htons(length),
			.id = bpf_get_prandom_u32(),
			.ttl = 64,
			.protocol = IPPROTO_UDP,
			.saddr = config->address_v4,
			.daddr = node,
		},
		.udp = {
			.source = tunnel_source_port(skb, config),
			.dest = config->overlay_port,
			.len = bpf_htons(length - sizeof(wrapping.ip)),
		},
		.vxlan = { .flags = VXLAN_HAS_VNI, .vni = bpf_htonl(config->vni << 8) },
		.frame = inner->frame,
	};
	__u64 marks = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
		      BPF_F_ADJ_ROOM_ENCAP_L2(sizeof(struct ethhdr));
	__u32 size = WRAPPING;

	wrapping.ip.check = ~header_sum(&wrapping.ip);
	if (config->flags & CONFIG_LEAVE_CHECKSUMS)
		marks = 0;
	if (v6 && !marks) {
		if (bpf_skb_load_bytes(skb, NETWORK, wrapping.begin, CUT) ||
		    bpf_skb_change_proto(skb, bpf_htons(ETH_P_IP), 0))
			return UNWRAPPED;
		if (bpf_skb_adjust_room(skb, size + CUT, BPF_ADJ_ROOM_MAC, 0))
			return DROP;
		size += CUT;
	} else if (bpf_skb_adjust_room(skb, size, BPF_ADJ_ROOM_MAC, marks)) {
		return UNWRAPPED;
	}
	return bpf_skb_store_bytes(skb, NETWORK, &wrapping, size, BPF_F_RECOMPUTE_CSUM) ? DROP : NONE;
}

/* Sends the packet to `node`, in its wrapping. UNWRAPPED: that is for the device to do, and nothing changed. */
__noinline int send_wrapped(struct __sk_buff *skb, __u32 node)
{
	const struct config *config = config_get();
	__u32 length = skb->len - NETWORK + WRAPPING;
	struct bpf_redir_neigh next_hop = {};
	struct wrapped inner;
	int refused;

	if (!config || bpf_skb_load_bytes(skb, 0, &inner, sizeof(inner)) ||
	    !underlay_route(skb, config, node, length, &next_hop))
		return UNWRAPPED;
	refused = wrap(skb, config, &inner, node, length);
	if (refused)
		return refused;
	skb->mark = MARK_WRAPPED;
	return bpf_redirect_neigh(config->underlay_ifindex, &next_hop, sizeof(next_hop), 0);
}

/* Whether a packet may be wrapped at all. */
static __always_inline bool may_be_wrapped(const struct __sk_buff *skb, const struct config *config)
{
	return config->underlay_ifindex && !skb->gso_size && !skb->vlan_present && !is_trial(skb);
}

/* Where the tunnel of a packet on the underlay begins, when nothing about its wrapping is out of the ordinary; else 0. */
__noinline int plainly_wrapped_by(struct __sk_buff *skb)
{
	const struct config *config = config_get();
	__u32 length = skb->len - NETWORK;
	struct wrapping wrapping;

	if (!config || skb->ifindex != config->underlay_ifindex || skb->gso_size || skb->vlan_present ||
	    skb->pkt_type != PACKET_HOST || bpf_skb_load_bytes(skb, NETWORK, &wrapping, WRAPPING))
		return 0;
	if (wrapping.ip.version != 4 || wrapping.ip.ihl != sizeof(wrapping.ip) / 4 ||
	    wrapping.ip.protocol != IPPROTO_UDP || wrapping.ip.daddr != config->address_v4 ||
	    wrapping.ip.tot_len != bpf_htons(length) || (wrapping.ip.frag_off & bpf_htons(0x3fff)) ||
	    (wrapping.ip.tos & ECN) == ECN_CE || header_sum(&wrapping.ip) != 0xffff ||
	    wrapping.udp.dest != config->overlay_port || wrapping.udp.check ||
	    wrapping.udp.len != bpf_htons(length - sizeof(wrapping.ip)) || wrapping.vxlan.flags != VXLAN_HAS_VNI ||
	    wrapping.vxlan.vni != bpf_htonl(config->vni << 8))
		return 0;
	return wrapping.ip.saddr;
}

/*
 * The packet becomes the one that it carries: NONE. The kernel may have no memory for that. NOT_OURS: nothing changed
 * yet, and the stack may see to it. REWRITE_FAILED: something did, and nobody could make sense of it.
 */
static __always_inline int unwrap(struct __sk_buff *skb, int family)
{
	__be16 protocol = bpf_htons(ETH_P_IPV6);
	__s32 room = family == AF_INET ? WRAPPING : WRAPPING + CUT;

	if (family == AF_INET6 && bpf_skb_change_proto(skb, protocol, 0))
		return NOT_OURS;
	if (bpf_skb_adjust_room(skb, -room, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_NO_CSUM_RESET))
		return family == AF_INET ? NOT_OURS : REWRITE_FAILED;
	if (family == AF_INET6 &&
	    bpf_skb_store_bytes(skb, __builtin_offsetof(struct ethhdr, h_proto), &protocol, sizeof(protocol), 0))
		return REWRITE_FAILED;
	/* The checksum that a card found right was first of all the outer one's, as the kernel counts (skbuff.h). */
	bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC);
	return NONE;
}
