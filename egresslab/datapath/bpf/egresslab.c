// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The datapath of an egress gateway: one object, five programs, for kernels from 5.10 on.
 *
 *   from_pod      ingress of the host side of a pod's link    which way out
 *   to_pod        egress of the same                          what outside opened towards the pod
 *   from_overlay  ingress of the tunnel device                leave as a gateway, or deliver a reply
 *   to_wire       egress of an outward interface              guard, and the node's own ports
 *   from_wire     ingress of an outward interface             replies, back to the pod
 *
 * All have one shape: read; what is not ours passes; from a line that says so, what is ours but broken is dropped
 * with a reason; look up; rewrite; redirect.
 */
#include <linux/bpf.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "from_pod.h"
#include "to_pod.h"
#include "from_overlay.h"
#include "to_wire.h"
#include "from_wire.h"

/* Never read: it brings into BTF what only records and numbers use, for userspace to check its own view against. */
const volatile struct {
	enum program program;
	enum reason reason;
	enum event event;
	enum flow_kind flow_kind;
	struct flow_record flow_record;
} contract SEC(".rodata");

/* bpf_redirect_neigh(), bpf_redirect_peer() and the ring buffer are open to GPL-compatible programs only. */
char _license[] SEC("license") = "Dual BSD/GPL";
