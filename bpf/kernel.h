/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the kernel offers: its types, the helpers we call, section names. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define NULL ((void *)0)
#define TCX_NEXT -1	/* newer than the oldest headers we build with */
#define AF_INET 2
#define AF_INET6 10
#define unlikely(x) __builtin_expect(!!(x), 0)
#define likely(x) __builtin_expect(!!(x), 1)

/* Map definitions, as BTF wants them. */
#define uint_field(name, value) int (*name)[value]
#define type_field(name, value) typeof(value) *name

/* Objects are built for little-endian kernels. */
#define be16(x) ((__be16)__builtin_bswap16(x))
#define be32(x) ((__be32)__builtin_bswap32(x))

/*
 * What we read of a socket in TIME_WAIT, and where: the loader finds out. The
 * helper that would cast to its type (skc_to_tcp_timewait_sock) knows only TCP's
 * own protocol; what a listener in a SOCKMAP accepts rests with sockmap's.
 */
struct sock_common { __u32 skc_tw_rcv_nxt; } __attribute__((preserve_access_index));
#define RCV_NXT __builtin_preserve_field_info(((struct sock_common *)0)->skc_tw_rcv_nxt, 0)
#define SOCK_COMMON 160	/* bytes, more than any kernel's */

/* What we read of a socket that is connected. */
struct tcp_sock { __u32 rcv_nxt, rcv_wnd; } __attribute__((preserve_access_index));

#define HELPER(type, name, id, ...) static type (*const name)(__VA_ARGS__) = (void *)(id)

HELPER(void *, bpf_map_lookup_elem, BPF_FUNC_map_lookup_elem, void *map, const void *key);
HELPER(long, bpf_map_update_elem, BPF_FUNC_map_update_elem, void *map, const void *key,
       const void *value, __u64 flags);
HELPER(long, bpf_ringbuf_output, BPF_FUNC_ringbuf_output, void *ring, void *data, __u64 size,
       __u64 flags);
HELPER(__u64, bpf_ktime_get_ns, BPF_FUNC_ktime_get_ns, void);
HELPER(__u64, bpf_ktime_get_coarse_ns, BPF_FUNC_ktime_get_coarse_ns, void);
HELPER(long, bpf_redirect, BPF_FUNC_redirect, __u32 ifindex, __u64 flags);
HELPER(long, bpf_redirect_neigh, BPF_FUNC_redirect_neigh, __u32 ifindex,
       struct bpf_redir_neigh *hop, int size, __u64 flags);
HELPER(long, bpf_fib_lookup, BPF_FUNC_fib_lookup, void *ctx, struct bpf_fib_lookup *params,
       int size, __u32 flags);
HELPER(long, bpf_xdp_adjust_tail, BPF_FUNC_xdp_adjust_tail, struct xdp_md *ctx, int delta);
HELPER(__s64, bpf_csum_diff, BPF_FUNC_csum_diff, const void *from, __u32 from_size,
       const void *to, __u32 to_size, __u32 seed);
HELPER(long, bpf_xdp_adjust_head, BPF_FUNC_xdp_adjust_head, struct xdp_md *ctx, int delta);
HELPER(long, bpf_xdp_load_bytes, BPF_FUNC_xdp_load_bytes, struct xdp_md *ctx, __u32 offset,
       void *to, __u32 size);
HELPER(__u64, bpf_xdp_get_buff_len, BPF_FUNC_xdp_get_buff_len, struct xdp_md *ctx);
HELPER(struct bpf_sock *, bpf_skc_lookup_tcp, BPF_FUNC_skc_lookup_tcp, void *ctx,
       struct bpf_sock_tuple *tuple, __u32 size, __u64 netns, __u64 flags);
HELPER(long, bpf_probe_read_kernel, BPF_FUNC_probe_read_kernel, void *to, __u32 size,
       const void *from);
HELPER(struct tcp_sock *, bpf_skc_to_tcp_sock, BPF_FUNC_skc_to_tcp_sock, void *sock);
HELPER(long, bpf_sk_release, BPF_FUNC_sk_release, void *sock);
HELPER(long, bpf_tcp_check_syncookie, BPF_FUNC_tcp_check_syncookie, void *sock, void *ip,
       __u32 ip_size, struct tcphdr *tcp, __u32 tcp_size);
HELPER(long, bpf_sk_assign, BPF_FUNC_sk_assign, void *ctx, void *sock, __u64 flags);
HELPER(long, bpf_timer_init, BPF_FUNC_timer_init, struct bpf_timer *timer, void *map, __u64 flags);
HELPER(long, bpf_timer_set_callback, BPF_FUNC_timer_set_callback, struct bpf_timer *timer,
       void *callback);
HELPER(long, bpf_timer_start, BPF_FUNC_timer_start, struct bpf_timer *timer, __u64 ns, __u64 flags);
