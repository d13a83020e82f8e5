/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Where packets go: into the tunnel, to a pod, out of the node. All of it is a redirect, so nothing that was selected
 * ever meets the node's own stack: no masquerade, no conntrack, no reverse-path filter.
 */
#pragma once

#include "observe.h"
#include "policy.h"
#include "tunnel.h"

/* What 5.10 calls sizeof(struct bpf_tunnel_key); later kernels accept it too. */
#define TUNNEL_KEY_SIZE __builtin_offsetof(struct bpf_tunnel_key, local_ipv4)

/* On packets that were translated here. They leave at once, so nothing else on the node sees it. */
#define MARK_TRANSLATED 0x00e60000

static __always_inline int send_to_node(struct __sk_buff *skb, const struct config *config, __be32 node)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = config->vni,
		.remote_ipv4 = bpf_ntohl(node),
		.tunnel_ttl = 64,
	};

	if (may_be_wrapped(skb, config)) {
		int verdict = send_wrapped(skb, node);

		if (verdict != UNWRAPPED)
			return verdict;
	}
	if (!config->overlay_ifindex ||
	    bpf_skb_set_tunnel_key(skb, &key, TUNNEL_KEY_SIZE, BPF_F_ZERO_CSUM_TX))
		return DROP;
	return bpf_redirect(config->overlay_ifindex, 0);
}

/* bpf_redirect_peer() skips the host side's queue and the pod's backlog. */
static __always_inline int send_to_pod(struct __sk_buff *skb, const struct endpoint *endpoint)
{
	if (bpf_skb_store_bytes(skb, 0, endpoint->mac, ETH_ALEN, 0))
		return DROP;
	return bpf_redirect_peer(endpoint->ifindex, 0);
}

/* The size on the wire of the largest packet that this one becomes. */
static __always_inline __u32 largest_packet(const struct __sk_buff *skb, const struct packet *packet)
{
	if (!skb->gso_size)
		return packet->length;
	return packet->transport_offset - NETWORK + skb->gso_size +
	       (packet->protocol == IPPROTO_TCP ? packet->tcp_header : sizeof(struct udphdr));
}

struct route {
	struct bpf_redir_neigh next_hop;
	__u32 ifindex;
	__u32 mtu;	/* where known, else 0 */
};

/*
 * The way out for a packet that will have `source`. With `ifindex` only routes over that interface count; else the
 * packet is routed as if it had come in here already translated, so rules on the source address apply.
 *
 * IPv6 routing takes the interface as a wish only once the source is given, and names the best route of all. Then the
 * interface's own default route stands in; a route on the link itself is always the most specific one and needs none.
 */
static __always_inline int route_find(struct __sk_buff *skb, int family, const struct packet *packet,
				      const struct address *source, __u32 ifindex, struct route *route)
{
	struct bpf_fib_lookup fib = {
		.family = family,
		.l4_protocol = packet->protocol,
		.ifindex = ifindex ?: skb->ifindex,
	};
	__u32 size = largest_packet(skb, packet);
	const struct wire *wire;
	long result;

	/* Kernels from 5.12 on compare this with the route's MTU, and put that in its place. */
	fib.tot_len = size > 0xffff ? 0xffff : size;
	if (family == AF_INET) {
		fib.ipv4_src = source->word[3];
		fib.ipv4_dst = packet->destination.word[3];
	} else {
		__builtin_memcpy(fib.ipv6_src, source, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, &packet->destination, sizeof(fib.ipv6_dst));
	}
	result = bpf_fib_lookup(skb, &fib, sizeof(fib), ifindex ? BPF_FIB_LOOKUP_OUTPUT : 0);
	if (result != BPF_FIB_LKUP_RET_SUCCESS && result != BPF_FIB_LKUP_RET_NO_NEIGH &&
	    result != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return NO_ROUTE;
	route->ifindex = ifindex ?: fib.ifindex;
	wire = bpf_map_lookup_elem(&wires, &route->ifindex);
	if (route->ifindex != fib.ifindex) {
		if (family == AF_INET || !wire || address_is_zero(&wire->gateway_v6))
			return NO_ROUTE;
		result = BPF_FIB_LKUP_RET_SUCCESS;
		fib.family = AF_INET6;
		__builtin_memcpy(fib.ipv6_dst, &wire->gateway_v6, sizeof(fib.ipv6_dst));
	}
	route->mtu = result == BPF_FIB_LKUP_RET_FRAG_NEEDED ? fib.tot_len : 0;
	if (wire && (!route->mtu || wire->mtu < route->mtu))
		route->mtu = wire->mtu;
	if (result == BPF_FIB_LKUP_RET_FRAG_NEEDED || (route->mtu && size > route->mtu))
		return TOO_BIG;
	route->next_hop.nh_family = fib.family;
	if (fib.family == AF_INET)
		route->next_hop.ipv4_nh = fib.ipv4_dst;
	else
		__builtin_memcpy(route->next_hop.ipv6_nh, fib.ipv6_dst, sizeof(route->next_hop.ipv6_nh));
	return NONE;
}

/* Through the neighbour table, which also keeps entries alive that a copied MAC address would let go stale. */
static __always_inline int send_to_wire(struct __sk_buff *skb, struct route *route)
{
	skb->mark = MARK_TRANSLATED;
	return bpf_redirect_neigh(route->ifindex, &route->next_hop, sizeof(route->next_hop), 0);
}
