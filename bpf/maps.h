/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps: what user space and the programs agree on. bpf.go has the same
 * structs; a test compares sizes and offsets. A change that an older program
 * would misread has another layout, and its pins another directory.
 */
#pragma once

#include "kernel.h"
#include "reason.h"

#define ROWS 65537	/* a prime: hash buckets of the node set */
#define PEERS 1024	/* local indexes; 0 is nobody */
#define SELF 1		/* the local index of this node */
#define VIPS 4096	/* VIP addresses; number 0 is none */
#define VIP_BUCKETS 2048	/* a power of two */
#define VIP_BUCKET 4	/* VIP addresses in a bucket */
#define VIP_PORTS 64	/* ports of one VIP address */
#define BINDS 1024	/* listening addresses and ports */
#define BIND_SLOTS 256	/* listening sockets of one bind */
#define SLOTS 16384	/* listening sockets in all */

/* An IP address; IPv4 is mapped (::ffff:a.b.c.d). */
struct address {
	__be32 word[4];
};

#define MAPPED be32(0xffff)	/* word[2] of an IPv4 address */

INLINE struct address mapped(__be32 ip)
{
	return (struct address){ { 0, 0, MAPPED, ip } };
}

/* All of it: 2001:db8::ffff:a00:1 has that word, too. */
INLINE int is_ipv4(const struct address *a)
{
	return a->word[2] == MAPPED && !a->word[0] && !a->word[1];
}

#define NODE_TUNNELS 1	/* tags are set: encapsulated packets are sent and taken */
#define NODE_GUARDED 0x80	/* sources are looked at, protect.h */
#define NODE_CAPTURED 0x40	/* somebody captures packets, sight.h */
#define NODE_SERVES 2	/* at least one slot is live here */

/* What every packet's way depends on. One writer, stores of whole words. */
struct node {
	__u64 seed[2];		/* of flow_hash; a secret of the cluster */
	struct address address;	/* where peers send encapsulated packets */
	__be32 tag[2];		/* the current one, then one that is rotated out */
	__be16 view;		/* digest of the epochs that the rows were made of */
	__u8 flags;		/* NODE_* */
	__u8 outer_ip;		/* bytes of an outer IP header: 20 or 40, by the address's family */
	__u32 misses;		/* sent on per CPU and CLOCK_TICK at most; 0: any number */
	__u64 young_until;	/* rules for young rows end here (monotonic ns); 0: not young */
	__u64 unsettled_until;	/* misses are held back until here (monotonic ns); 0: settled */
};
_Static_assert(sizeof(struct node) == 64, "struct node");

/* The addresses of an Ethernet header: destination, source. */
struct macs {
	__u32 word[3];
};

#define PEER_BOUNCE 1	/* its interface may send a frame back with XDP_TX */
#define PEER_BY_KERNEL 2	/* its interface takes no frames from XDP: a bridge, a tunnel */
#define PEER_DOWN 4	/* seems dead: it is not asked about new connections */

/* A node of the node set, and how frames get there from here. */
struct peer {
	struct address address;
	__u64 valid_until;	/* the rest holds until then (monotonic ns) */
	__u32 ifindex;
	__u16 mtu;		/* of the way there: the longest outer IP packet */
	__u16 flags;		/* PEER_* */
	struct macs macs;	/* of its frames: to the next hop, from us */
	__be16 vlan;		/* tag that the frames carry; 0: none */
	__u16 unused;
};
_Static_assert(sizeof(struct peer) == 48, "struct peer");

#define SERVED_HERE 1	/* some member lacks the VIP: new connections stay where they arrive */
#define SERVED_WAS_HERE 2	/* and they did until lately: this node is asked first */
#define SERVED_AWAY 4	/* it drains here: new connections go to the rows' stand-ins */
#define SERVED_WAS_AWAY 8	/* and they did until lately: the stand-in is asked, too */

/* What is served at one port of a VIP. Port 0 is any, and comes last. */
struct served {
	__be16 port;
	__u8 protocol;
	__u8 flags;		/* SERVED_* */
	__u32 service;		/* 0: the workers, by the rows of the node set */
};
_Static_assert(sizeof(struct served) == 8, "struct served");

#define VIP_FRAGMENTS 1	/* fragments are taken: ports play no part in its rows, fragment.h */

/* A VIP address: its ports are here, in one place. */
struct vip {
	__u16 ports;		/* how many of port[] are filled */
	__u16 flags;		/* VIP_* */
	__be16 any_tcp, any_udp;	/* a port that is served, for fragments that name none */
	struct served port[VIP_PORTS];
};
_Static_assert(sizeof(struct vip) == 520, "struct vip");

/*
 * A hash table of our own: every packet that comes by asks it, and a lookup in
 * a hash map of the kernel costs 18 ns, this one 6. An address is in one of two
 * buckets. User space chooses which, and writes an entry's vip last.
 */
struct vip_entry {
	struct address address;
	__u32 vip;		/* number of the VIP, or 0 */
	__u32 unused;
};

struct vip_bucket {
	struct vip_entry entry[VIP_BUCKET];
};
_Static_assert(sizeof(struct vip_bucket) == 96, "struct vip_bucket");

/* Key of `binds`. ::ffff:0.0.0.0 is any IPv4 address, :: any at all. */
struct bind_key {
	struct address address;
	__u16 port;		/* host order, as sk_lookup has it */
	__u8 protocol;
	__u8 unused;
};
_Static_assert(sizeof(struct bind_key) == 20, "struct bind_key");

/* The listening sockets of a bind that take new connections. */
struct bind {
	__u32 live;		/* how many of slot[] are filled */
	__u16 slot[BIND_SLOTS];	/* indexes of `slots` */
};
_Static_assert(sizeof(struct bind) == 516, "struct bind");

/* The time. A timer of the kernel writes it, with or without a daemon: asking
 * for it costs a packet more than parsing it. */
struct clock {
	struct bpf_timer timer;
	__u64 now;		/* monotonic ns, at most CLOCK_TICK old */
};
_Static_assert(sizeof(struct clock) == 24, "struct clock");

#define CLOCK_TICK 250000000	/* ns */

/* How many packets that missed here one CPU may still send on in a tick. */
struct allowance {
	__u64 tick;
	__u64 left;
};
_Static_assert(sizeof(struct allowance) == 16, "struct allowance");

/*
 * Since when peers' packets carry another view than ours. Such a packet is held
 * back instead of reset, for DOUBT; longer only if user space says so.
 */
struct doubt {
	__u64 since, last;	/* monotonic ns */
	__be16 view;		/* ours at the time */
	__u16 unused[3];
};
_Static_assert(sizeof(struct doubt) == 24, "struct doubt");

#define DOUBT (2ULL * 1000000000)	/* ns */
#define DOUBT_FORGOTTEN (10ULL * 1000000000)	/* ns without such a packet */

/*
 * What a router of the fabric said of the way to a peer. The programs believe it
 * at once, user space for PATH_HOLDS; see ours.h.
 */
struct path_mtu {
	__u64 at;		/* monotonic ns; 0: nothing was said */
	__u32 mtu;
	__u32 unused;
};
_Static_assert(sizeof(struct path_mtu) == 16, "struct path_mtu");

/* When a worker's loops last turned: the workers write it, with or without a daemon. */
struct pulse {
	__u64 at;		/* monotonic ns */
};

#define MAP_DEFINITION(kind, key_type, value_type, count, bits)      \
	struct {                                                     \
		uint_field(type, kind);                              \
		type_field(key, key_type);                           \
		type_field(value, value_type);                       \
		uint_field(max_entries, count);                      \
		uint_field(map_flags, bits);                         \
	}

MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct node, 1, BPF_F_MMAPABLE) node SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct clock, 1, 0) clock SEC(".maps");

MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct pulse, 1, BPF_F_MMAPABLE) pulse SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct doubt, 1, 0) doubt SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct allowance, 1, 0) allowance SEC(".maps");

/*
 * cur | prev1 | prev2 | stand-in, 16 bits each from the lowest: local indexes of
 * peers. The stand-in takes the new connections of VIPs that drain here.
 */
MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, __u64, ROWS, BPF_F_MMAPABLE) rows SEC(".maps");

MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct peer, PEERS, BPF_F_MMAPABLE) peers SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_HASH, struct address, __u32, PEERS, 0) peer_index SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct path_mtu, PEERS, BPF_F_MMAPABLE) path_mtus SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct vip_bucket, VIP_BUCKETS, BPF_F_MMAPABLE) vip_table SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_ARRAY, __u32, struct vip, VIPS, 0) vips SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_HASH, struct bind_key, struct bind, BINDS, 0) binds SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_SOCKMAP, __u32, __u64, SLOTS, 0) slots SEC(".maps");
MAP_DEFINITION(BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, REASONS, 0) counters SEC(".maps");

/* What functions that are verified by themselves know of a packet. */
struct flow {
	struct address src;
	__u64 hash;
	__u64 part;		/* as in struct packet */
	__u32 service;
	__u16 l3, length;
	__u8 kind, version, protocol;
	__u8 later;		/* not the first fragment */
	__u32 unused;
};
_Static_assert(sizeof(struct flow) == 48, "struct flow");

/* Too much for a stack of 512 bytes. */
struct scratch {
	struct flow flow;
	__u32 common[SOCK_COMMON / sizeof(__u32)];
	struct bpf_fib_lookup way;
};

MAP_DEFINITION(BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct scratch, 1, 0) scratch SEC(".maps");

INLINE struct scratch *this_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

INLINE struct node *this_node(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&node, &zero);
}

INLINE struct clock *this_clock(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&clock, &zero);
}

INLINE void count(__u32 reason)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &reason);

	if (n)
		(*n)++;
}

/*
 * How a packet leaves: its verdict, and the reason in the bits above. The
 * program's end takes those off.
 */
#define VERDICT(way) ((way) & 0xff)
#define REASON(way) ((__u32)(way) >> 8)

INLINE int sent(int verdict, __u32 reason)
{
	count(reason);
	return verdict | reason << 8;
}

/* Counts a packet that goes no further, and says whether the stack gets it. */
INLINE int leave(__u32 reason)
{
	return sent(DROPS >> reason & 1 ? XDP_DROP : XDP_PASS, reason);
}
