/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The rare steps, as global functions: the verifier checks each of them once, by itself, instead of along every path
 * that leads there. On 5.10 such a function may take the context and plain numbers only, so it finds the subject and
 * the configuration again. All return 1 for done and 0 for not.
 */
#pragma once

#include "answer.h"
#include "reset.h"
#include "flowtable.h"

static __always_inline int split_claim(struct __sk_buff *skb, int family, __u32 kind)
{
	struct subject *subject = subject_current();
	const struct config *config = config_get();

	return subject && config && claim(skb, family, config, subject, kind);
}

static __always_inline int split_close(struct __sk_buff *skb, int family, __u32 program)
{
	struct subject *subject = subject_current();
	const struct config *config = config_get();

	if (!subject || !config)
		return 0;
	report_close(skb, family, config, program, subject);
	return 1;
}

static __always_inline int split_answer(struct __sk_buff *skb, int family)
{
	struct subject *subject = subject_current();

	return subject && make_answer(skb, family, subject);
}

static __always_inline int split_error(struct __sk_buff *skb, int family, __u32 outer_source, __u32 hop)
{
	struct subject *subject = subject_current();

	if (!subject)
		return 0;
	if (outer_source)
		return !rewrite_error(skb, family, subject, true, hop);
	return !rewrite_error(skb, family, subject, false, hop);
}

static __always_inline int split_reset(struct __sk_buff *skb, int family)
{
	struct subject *subject = subject_current();

	return subject && make_reset(skb, family, subject);
}

__noinline int claim_v4(struct __sk_buff *skb, __u32 kind)
{
	return split_claim(skb, AF_INET, kind);
}

__noinline int claim_v6(struct __sk_buff *skb, __u32 kind)
{
	return split_claim(skb, AF_INET6, kind);
}

__noinline int close_v4(struct __sk_buff *skb, __u32 program)
{
	return split_close(skb, AF_INET, program);
}

__noinline int close_v6(struct __sk_buff *skb, __u32 program)
{
	return split_close(skb, AF_INET6, program);
}

__noinline int answer_v4(struct __sk_buff *skb)
{
	return split_answer(skb, AF_INET);
}

__noinline int answer_v6(struct __sk_buff *skb)
{
	return split_answer(skb, AF_INET6);
}

__noinline int reset_v4(struct __sk_buff *skb)
{
	return split_reset(skb, AF_INET);
}

__noinline int reset_v6(struct __sk_buff *skb)
{
	return split_reset(skb, AF_INET6);
}

__noinline int error_v4(struct __sk_buff *skb, __u32 outer_source, __u32 hop)
{
	return split_error(skb, AF_INET, outer_source, hop);
}

__noinline int error_v6(struct __sk_buff *skb, __u32 outer_source, __u32 hop)
{
	return split_error(skb, AF_INET6, outer_source, hop);
}

/* Claim a port of `subject->to` for the flow of `subject->key`. */
static __always_inline bool open_translation(struct __sk_buff *skb, int family, __u32 kind)
{
	return family == AF_INET ? claim_v4(skb, kind) : claim_v6(skb, kind);
}

/* After a FIN or RST. */
static __always_inline void note_close(struct __sk_buff *skb, int family, __u32 program)
{
	if (family == AF_INET)
		close_v4(skb, program);
	else
		close_v6(skb, program);
}

/* The packet becomes the ICMP error `subject->answer`. */
static __always_inline bool turn_into_answer(struct __sk_buff *skb, int family)
{
	return family == AF_INET ? answer_v4(skb) : answer_v6(skb);
}

/* The packet becomes a TCP reset to its sender. */
static __always_inline bool turn_into_reset(struct __sk_buff *skb, int family)
{
	return family == AF_INET ? reset_v4(skb) : reset_v6(skb);
}

/* The side of the packet that is translated becomes `subject->to`, `subject->to_port`. */
static __always_inline bool translate(struct __sk_buff *skb, int family, struct subject *subject, bool source,
				      __u32 hop)
{
	if (subject->packet.transport == TRANSPORT_ERROR)
		return family == AF_INET ? error_v4(skb, source, hop) : error_v6(skb, source, hop);
	return !rewrite(skb, family, &subject->packet, source, &subject->to, subject->to_port, hop);
}
