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
