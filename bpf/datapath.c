//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One object, so that the programs share their maps. Start reading at xdp.c. */
#include "xdp.c"
#include "agent.c"
#include "socket.c"
#include "neighbour.c"
#include "clock.c"
