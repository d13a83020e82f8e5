/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What userspace and the programs share: layouts of keys, values and records, and the numbers behind names.
 * Userspace reads sizes and offsets from the object's BTF and refuses to start when its own view differs.
 *
 * Addresses are in network byte order. `struct address` holds both families: IPv4 as ::ffff:a.b.c.d (RFC 4291,
 * section 2.5.5.2). Other integers are in host byte order unless their type says __be.
 */
#pragma once

#include <linux/types.h>

struct address {
	__be32 word[4];
};

enum program {
	FROM_POD = 0,
	TO_POD = 1,
	FROM_OVERLAY = 2,
	TO_WIRE = 3,
	FROM_WIRE = 4,
	PROGRAMS,
};

/* What became of a packet. From FIRST_DROP on it was dropped; numbers below 224 there are also Cilium's. */
enum reason {
	NONE = 0,
	IN_CLUSTER = 1,		/* destination is inside */
	NO_ENTRY = 2,		/* no policy selects it */
	EXCLUDED = 3,		/* a policy excludes the destination */
	INBOUND = 4,		/* belongs to a connection that was opened from outside */
	NOT_OURS = 5,		/* no translation of ours: the node's own traffic */
	STEERED = 6,		/* into the tunnel, towards the gateway */
	TRANSLATED = 7,		/* left with the egress address */
	RETURNED = 8,		/* reply, into the tunnel towards the pod's node */
	DELIVERED = 9,		/* reply, to the pod */
	ALREADY_TRANSLATED = 10,
	RESERVED = 11,		/* the node's own flow, noted so that no pod is given its tuple */
	TOO_BIG = 12,		/* answered with "fragmentation needed" or "packet too big" */
	TIME_EXCEEDED = 13,	/* answered with "time exceeded" */
	FAIL_OPEN = 14,		/* selected, but without a gateway its policy lets it pass */
	PROBED = 15,		/* a voter's probe, answered */
	ANNOUNCED = 16,		/* ARP request or neighbour solicitation, answered */
	RESET = 17,		/* of a connection that is not known here, answered with a reset */
	FIRST_DROP = 128,
	INVALID_SOURCE = 132,
	INVALID_PACKET = 134,
	UNKNOWN_PROTOCOL = 142,
	EXTENSION_HEADER = 156,
	NO_FREE_PORT = 167,
	UNSUPPORTED_ICMP = 168,
	NO_ROUTE = 169,
	FRAGMENT_WITHOUT_FIRST = 175,
	NO_GATEWAY = 194,
	HOP_LIMIT = 196,
	NO_EGRESS_IP = 204,
	NOT_READY = 224,	/* a pod whose policies are not known yet */
	NOT_GATEWAY = 225,	/* came through the tunnel, but this node is not the gateway */
	UNTRANSLATED = 226,	/* about to leave with a pod's address although a policy selects it */
	NO_FLOW = 227,		/* an ICMP error about a flow that is not known */
	UNKNOWN_ENDPOINT = 228,	/* a reply for a pod that is not here */
	NO_OVERLAY = 229,	/* the overlay device is not configured */
	REWRITE_FAILED = 230,	/* the kernel refused a change of the packet */
	NOT_FOR_OVERLAY = 231,	/* came through the tunnel, but is neither steered traffic nor a reply */
	NOT_HOLDER = 232,	/* fenced: this node's lease has ended */
	REASONS = 256,
};

enum event {
	OPENED = 1,
	CLOSED = 2,
	DROPPED = 3,
};

enum flow_kind {
	FLOW_TRANSLATED = 1,	/* pod -> remote; `address`, `port` are the egress side */
	FLOW_REPLY = 2,		/* remote -> egress side; `address`, `port` are the pod */
	FLOW_STEERED = 3,	/* pinned to `slot`, translated elsewhere */
	FLOW_INBOUND = 4,	/* opened from outside: never steered */
	FLOW_PASSED = 5,	/* opened by the pod when nothing selected it: a note, never a verdict */
	FLOW_NODE = 6,		/* the node's own flow from an egress address */
};

#define POLICY_EXCLUDED 1U
#define SLOT_LOCAL 1U
#define SLOT_OPEN 2U
#define SLOT_RESET 4U
#define HOLDER_LOCAL 1U
#define ANNOUNCED_SILENT 1U
#define SPILLS 7
#define VOTERS 7
#define ENDPOINT_READY 1U
#define CONFIG_PIN_FLOWS 1U
#define CONFIG_LEAVE_CHECKSUMS 2U	/* to the underlay: nothing below it computes any */

struct policy_key_v4 {
	__u32 prefixlen;	/* 32 + destination's */
	__be32 source;
	__be32 destination;
};

struct policy_key_v6 {
	__u32 prefixlen;	/* 128 + destination's */
	struct address source;
	struct address destination;
};

struct policy_value {
	__u32 slot;
	__u32 flags;		/* POLICY_* */
};

struct gateway_slot {
	__be32 endpoint;	/* 0: no gateway */
	__be32 source_v4;	/* 0: none; meaningful on the gateway only */
	struct address source_v6;
	__u32 ifindex;		/* 0: the routing table chooses */
	__u32 flags;		/* SLOT_* */
	__u32 lease;		/* 0: none; else `holders` says where the gateway is, and `leases` for how long */
	__be32 spill_v4[SPILLS];	/* further sources for when ports run out, in order; 0: no more */
	struct address spill_v6[SPILLS];
};

struct holder {
	__u64 epoch;
	__be32 endpoint;
	__u32 flags;		/* HOLDER_* */
};

struct voters {
	__u64 heartbeat;	/* bpf_ktime_get_ns(), when the voter of this node last said that it lives */
	__be32 address[VOTERS];	/* 0: nobody in this place */
	__u32 quorum;
};

struct grant {
	__u64 epoch;
	__u64 until;
	__be32 voter;
	__u32 pad;
};

/* The grant of the voter in place N of `voters` is in place N here; one that names another voter does not count. */
struct lease {
	struct bpf_spin_lock lock;
	__u32 pad;
	__u64 epoch;
	__u64 holds_until;	/* bpf_ktime_get_ns() */
	struct grant grants[VOTERS];
};

struct announced_key {
	struct address address;
	__u32 ifindex;
};

struct announced {
	__u32 lease;
	__u32 flags;		/* ANNOUNCED_* */
};

struct endpoint {
	__u32 ifindex;		/* 0: the pod is on another node */
	__be32 node;		/* tunnel endpoint of that node */
	__u8 mac[6];
	__u16 flags;		/* ENDPOINT_* */
};

struct cidr_key {
	__u32 prefixlen;	/* IPv4: 96 + its own */
	struct address network;
};

/* `direction` 0: as the pod sends (local = pod); 1: as replies arrive (local = egress address). */
struct flow_key_v4 {
	__be32 local;
	__be32 remote;
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
	__u8 direction;
	__u16 pad;
};

struct flow_key_v6 {
	struct address local;
	struct address remote;
	__be16 local_port;
	__be16 remote_port;
	__u8 protocol;
	__u8 direction;
	__u16 pad;
};

struct flow {
	__u64 opened;		/* bpf_ktime_get_ns() */
	__u64 seen;
	struct address address;
	__u32 tick;		/* jiffy of `seen`: the clock is read once a jiffy, not once a packet */
	__u32 slot;
	__be32 node;		/* tunnel endpoint of the pod's node; 0: the pod is here */
	__be16 port;
	__u8 kind;		/* enum flow_kind */
	__u8 tcp_flags;		/* seen in this direction */
};

struct fragment_key {
	struct address source;
	struct address destination;
	__u32 id;
	__u8 protocol;
	__u8 pad[3];
};

struct fragment {
	__be16 source_port;
	__be16 destination_port;
};

struct wire {
	__u32 mtu;
	struct address gateway_v6;	/* of the interface's own default route; zero: none */
	__u8 mac[6];
	__u16 pad;
};

struct config {
	__be32 address_v4;	/* where ICMP errors of ours come from */
	__u32 overlay_ifindex;
	struct address address_v6;
	__u32 overlay_mtu;	/* of inner packets; 0: unlimited */
	__u32 vni;
	__u32 flags;		/* CONFIG_* */
	__u32 drop_events;	/* per second and CPU */
	__u32 idle_pin;		/* seconds */
	__u16 port_min;
	__u16 port_max;
	__be16 overlay_port;
	__u16 tunnel_port;	/* the first of the tunnel's source ports, and how many */
	__u16 tunnel_ports;
	__u16 pad;
	__u32 underlay_ifindex;	/* 0: everything takes the overlay device; see tunnel.h */
};

struct count {
	__u64 packets;
	__u64 bytes;
};

struct flow_record {
	__u64 time;		/* bpf_ktime_get_ns() */
	struct address pod;
	struct address remote;
	struct address egress;
	__be16 pod_port;
	__be16 remote_port;
	__be16 egress_port;
	__u8 event;		/* enum event */
	__u8 program;		/* enum program */
	__u8 reason;		/* enum reason */
	__u8 protocol;
	__u16 pad;
	__u32 slot;
	__be32 node;
	__u32 ifindex;
};

/* How many records were lost (openings and closings for want of room; drops also to the rate), and the window that the
 * rate counts in. */
struct record_budget {
	__u64 window;
	__u64 lost_drops;
	__u64 lost_flows;
	__u32 used;
	__u32 pad;
};
