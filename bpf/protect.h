/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is known of sources before anything else is: who is blocked, whom no
 * limit holds for, and who may send what others may not.
 */
#pragma once

#include "parse.h"

#define SOURCES 65536

#define SOURCE_BLOCKED 1
#define SOURCE_EXEMPT 2		/* neither blocked by a wider prefix nor limited */
#define SOURCE_TRUSTED 4	/* a backend takes packets out of encapsulations of its */

/* A prefix of addresses; IPv4 is mapped, so its bits begin at 96. */
struct source_key {
	__u32 bits;
	struct address address;
};
_Static_assert(sizeof(struct source_key) == 20, "struct source_key");

struct source {
	__u32 flags;	/* SOURCE_* */
};

MAP_DEFINITION(BPF_MAP_TYPE_LPM_TRIE, struct source_key, struct source, SOURCES, BPF_F_NO_PREALLOC) sources SEC(".maps");

/* How much a source may send in a second; 0: as much as it likes. */
struct limits {
	__u32 packets, syns;
};

#define SENDERS 65536	/* sources that are counted, on all CPUs */

/* What a source sent since the second began. */
struct sent_since {
	__u64 since;
	__u32 packets, syns;
};
_Static_assert(sizeof(struct sent_since) == 16, "struct sent_since");

#define SECOND 1000000000ULL

MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct limits, 1, 0) limits SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_LRU_HASH, struct address, struct sent_since, SENDERS, BPF_F_NO_COMMON_LRU) senders SEC(".maps");

/* Counts a packet of a source that is an IPv4 address or an IPv6 network of 64 bits. */
INLINE int over_limit(const struct address *src, __u32 syn, const struct limits *l)
{
	const struct clock *clock = this_clock();
	struct sent_since *s, first = { .packets = 1, .syns = syn };
	struct address key = *src;

	if (!is_ipv4(&key))
		key.word[2] = key.word[3] = 0;
	s = bpf_map_lookup_elem(&senders, &key);
	if (!s) {
		first.since = clock ? clock->now : 0;
		bpf_map_update_elem(&senders, &key, &first, BPF_ANY);
		return 0;
	}
	if (clock && clock->now - s->since >= SECOND) {
		s->since = clock->now;
		s->packets = 0;
		s->syns = 0;
	}
	s->packets++;
	s->syns += syn;
	if (l->packets && s->packets > l->packets)
		return leave(REASON_RATE_LIMITED);
	return syn && l->syns && s->syns > l->syns ? leave(REASON_SYN_LIMITED) : 0;
}

/* Drops a packet of a source that may not send it; 0: it may. */
__attribute__((noinline)) int guard(struct address *src, __u32 kind)
{
	struct source_key key = { .bits = 128 };
	struct source *s;
	struct limits *l;
	__u32 zero = 0;

	if (!src)
		return 0;
	key.address = *src;
	s = bpf_map_lookup_elem(&sources, &key);
	if (s && s->flags & SOURCE_EXEMPT)
		return 0;
	if (s && s->flags & SOURCE_BLOCKED)
		return leave(REASON_BLOCKED);
	l = bpf_map_lookup_elem(&limits, &zero);
	return l && (l->packets || l->syns) ? over_limit(src, kind == KIND_SYN, l) : 0;
}
