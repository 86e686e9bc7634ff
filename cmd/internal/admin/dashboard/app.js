// The dashboard. It listens to one stream, turns counters into rates, and shows
// texts as texts: nothing here parses HTML, so a hostile name stays a name.
"use strict";

const $ = (id) => document.getElementById(id);
const memory = 300; // seconds that the graphs show
const events = [];
let before = null; // the last look

// ---- texts and numbers

function element(tag, text, className) {
  const e = document.createElement(tag);
  if (text !== undefined && text !== "") e.textContent = text;
  if (className) e.className = className;
  return e;
}

function amount(n) {
  if (!isFinite(n)) return "-";
  if (n >= 1e6) return (n / 1e6).toFixed(1) + " M";
  if (n >= 1e4) return (n / 1e3).toFixed(1) + " k";
  return n >= 100 || Number.isInteger(n) ? String(Math.round(n)) : n.toFixed(1);
}

function bytes(n) {
  if (!isFinite(n)) return "-";
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (n >= size) return (n / size).toFixed(1) + " " + unit;
  return Math.round(n) + " B";
}

function duration(seconds) {
  if (seconds === null || seconds === undefined || !isFinite(seconds)) return "-";
  if (seconds < 0.001) return Math.round(seconds * 1e6) + " µs";
  if (seconds < 1) return (seconds * 1e3).toFixed(seconds < 0.1 ? 1 : 0) + " ms";
  return seconds.toFixed(2) + " s";
}

function ago(time, now) {
  const t = Date.parse(time);
  if (!t || t < 0) return "-";
  const s = Math.max(0, Math.round((now - t) / 1000));
  if (s < 120) return s + " s";
  if (s < 7200) return Math.round(s / 60) + " min";
  if (s < 172800) return Math.round(s / 3600) + " h";
  return Math.round(s / 86400) + " d";
}

// clockTime is the time of day, in 24 hours.
function clockTime(d) { return [d.getHours(), d.getMinutes(), d.getSeconds()].map((n) => String(n).padStart(2, "0")).join(":"); }

const good = ["up", "serving", "ready", "native", "in sync"];
const bad = ["down", "dead", "ejected", "stuck", "suspect", "out of sync"];
function tone(state) {
  if (good.includes(state)) return "good";
  return bad.includes(state) ? "bad" : "warn";
}

// advice sets commands apart: what stands in backticks, else from lbctl to the end.
function advice(text) {
  const parts = text.includes("`") ? text.split("`") : [text.split(/\blbctl /)[0], text.slice(text.split(/\blbctl /)[0].length)];
  return parts.filter(Boolean).map((part) => (parts.indexOf(part) % 2 ? element("code", part) : part));
}

// table fills a table: heads are [title, kind], cells texts or [text, class].
function table(id, heads, rows, empty) {
  const t = $(id);
  t.className = "stack";
  const head = element("tr");
  for (const [title, kind] of heads) {
    const th = element("th", title, kind);
    th.scope = "col";
    head.append(th);
  }
  const thead = element("thead"), body = element("tbody");
  thead.append(head);
  for (const row of rows) {
    const tr = element("tr");
    row.forEach((cell, i) => {
      const [text, className] = Array.isArray(cell) ? cell : [cell, ""];
      const td = element("td", String(text), [heads[i][1] || "", className].join(" ").trim());
      td.dataset.head = heads[i][0];
      if (String(text).includes("\n")) td.classList.add("lines");
      if (text === "-" || text === "") td.classList.add("nothing");
      tr.append(td);
    });
    body.append(tr);
  }
  if (rows.length === 0) {
    const tr = element("tr"), td = element("td", empty || "none", "soft");
    td.colSpan = heads.length;
    tr.append(td);
    body.append(tr);
  }
  t.replaceChildren(thead, body);
}

// ---- rates between two looks

function seconds(now, then) { return Math.max(0.001, (Date.parse(now.traffic.time) - Date.parse(then.traffic.time)) / 1000); }

function rates(now, then, kind) {
  const old = new Map((then ? then.traffic[kind] || [] : []).map((f) => [f.name, f]));
  const time = then ? seconds(now, then) : 1;
  const out = new Map();
  for (const f of now.traffic[kind] || []) {
    const o = old.get(f.name);
    const per = (key) => (o ? Math.max(0, f[key] - o[key]) / time : 0);
    out.set(f.name, {
      flow: f, requests: per("requests"), errors: per("errors"), bytesIn: per("bytes_in"), bytesOut: per("bytes_out"),
      buckets: between(f.latency, o && o.latency),
    });
  }
  return out;
}

// between is the histogram of what came since: [[upper bound, count], ...].
function between(now, then) {
  if (!now || !now.buckets) return [];
  const old = new Map((then && then.buckets ? then.buckets : []).map((b) => [b.Le ?? b.le, b.N ?? b.n]));
  const list = now.buckets.map((b) => [b.Le ?? b.le, (b.N ?? b.n) - (old.get(b.Le ?? b.le) || 0)]);
  list.push([Infinity, now.count - (then ? then.count : 0)]);
  return then ? list : [];
}

function merged(lists) {
  const sum = new Map();
  for (const list of lists) for (const [le, n] of list) sum.set(le, (sum.get(le) || 0) + n);
  return [...sum.entries()].sort((a, b) => a[0] - b[0]);
}

function percentile(list, share) {
  const all = list.length ? list[list.length - 1][1] : 0;
  if (all <= 0) return null;
  let low = 0, below = 0;
  for (const [le, n] of list) {
    if (n >= share * all) {
      if (le === Infinity) return low;
      return low + (le - low) * (n > below ? (share * all - below) / (n - below) : 1);
    }
    low = le;
    below = n;
  }
  return low;
}

// ---- graphs

const charts = {};

function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

function chart(id, names) {
  const place = $("chart-" + id);
  const palette = ["--c1", "--c2", "--c3", "--c4", "--c5"]; // the last one is red: it is for trouble
  const series = [{ label: "time" }];
  names.forEach((label, i) => series.push({ label, stroke: () => colour(palette[i % palette.length]), width: 2, points: { show: false },
    value: (u, v) => (v === null || v === undefined ? "-" : amount(v)) }));
  const axis = { stroke: () => colour("--soft"), grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  const u = new uPlot({
    width: Math.max(200, place.clientWidth), height: 170, series, cursor: { drag: { x: false, y: false } },
    scales: { y: { range: (u, low, high) => [0, Math.max(1, (high || 0) * 1.15)] } },
    legend: { markers: { width: 1 } }, fmtDate: () => (d) => clockTime(d),
    axes: [{ ...axis, space: 80, size: 28, values: (u, list) => list.map((t) => clockTime(new Date(t * 1000))) }, { ...axis, size: 48, values: (u, list) => list.map(amount) }],
  }, [[], ...names.map(() => [])], place);
  charts[id] = { u, data: [[], ...names.map(() => [])], names, place };
}

function plot(id, names, time, values) {
  if (!charts[id] || charts[id].names.join() !== names.join()) {
    const old = charts[id];
    if (old) old.u.destroy();
    chart(id, names);
    if (old) { // a line more: what there was stays
      charts[id].data[0] = old.data[0].slice();
      names.forEach((n, i) => { const at = old.names.indexOf(n); charts[id].data[i + 1] = at >= 0 ? old.data[at + 1].slice() : old.data[0].map(() => null); });
    }
  }
  const c = charts[id];
  c.data[0].push(time);
  values.forEach((v, i) => c.data[i + 1].push(v));
  while (c.data[0].length && c.data[0][0] < time - memory) for (const d of c.data) d.shift();
  c.u.setData(c.data);
  if (c.u.cursor.idx === null || c.u.cursor.idx === undefined) c.u.setLegend({ idx: c.data[0].length - 1 }); // nobody points: say the newest
}

function redraw() { for (const c of Object.values(charts)) c.u.setSize({ width: Math.max(200, c.place.clientWidth), height: 170 }); }
addEventListener("resize", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const c of Object.values(charts)) c.u.redraw(); });

// ---- the five questions

function show(now) {
  const s = now.status, clock = Date.parse(now.traffic.time);
  const flows = rates(now, before, "listeners"), servers = rates(now, before, "backends");
  document.title = s.node + " · Cirque";
  $("node").textContent = s.node;
  const degraded = s.problems.length > 0;
  $("state").textContent = degraded ? "degraded" : s.state;
  $("state").className = "badge " + (degraded ? "bad" : tone(s.state));
  $("facts").textContent = `lbd ${s.version} · generation ${s.generation} · objects owned by ${s.owner === "file" ? s.file : "the document"} · up ${ago(s.started, clock)}`;

  $("problems").hidden = !degraded;
  $("problem-list").replaceChildren(...s.problems.map((p) => {
    const li = element("li", `${p.subject} ${p.text}`);
    if (p.do) li.append(" \u2192 ", ...advice(p.do));
    return li;
  }));

  let requests = 0, errors = 0;
  for (const r of flows.values()) { requests += r.requests; errors += r.errors; }
  const latency = merged([...flows.values()].map((r) => r.buckets));
  const down = now.backends.filter((b) => b.state !== "up").length;
  const packets = new Map();
  const time = before ? seconds(now, before) : 1;
  const oldPackets = new Map((before ? before.traffic.packets || [] : []).map((p) => [p.reason, p.count]));
  for (const p of now.traffic.packets || []) packets.set(p.verdict, (packets.get(p.verdict) || 0) + (before ? Math.max(0, p.count - (oldPackets.get(p.reason) || 0)) / time : 0));

  numbers([["Requests/s", amount(requests)], ["Errors/s", amount(errors), errors > 0 ? "bad" : ""],
    ["p99", duration(percentile(latency, 0.99))], ["Connections", amount(s.connections)],
    ["Backends up", `${now.backends.length - down} of ${now.backends.length}`, down ? "warn" : ""],
    ["Fast path", s.fastpath.mode, s.fastpath.mode === "off" ? "soft" : ""]]);

  table("exposed-table", [["Listener"], ["Address", "span"], ["Protocol"], ["Scope"], ["Slots live", "number"], ["Connections", "number"]],
    s.listeners.map((l) => [l.name, l.bind, l.protocol, l.scope, [`${l.live} of ${l.slots}`, l.live < l.slots ? "bad" : ""], amount(l.connections)])
      .concat(s.services.map((v) => [v.name, v.bind, v.protocol, "packets, " + v.forward, [`${v.usable} of ${v.backends}`, v.usable ? "" : "bad"], "-"])), "nothing is exposed");
  const f = s.fastpath;
  $("fastpath").textContent = `Fast path: ${f.mode}` + (f.interfaces ? " (" + Object.entries(f.interfaces).map(([k, v]) => k + " " + v).join(", ") + ")" : "") +
    (f.reason ? ", because " + f.reason : "") + (f.epoch ? ` · epoch ${f.epoch}` : "");

  if (before) {
    const t = clock / 1000;
    const names = [...flows.keys()].slice(0, 5);
    plot("requests", names, t, names.map((n) => flows.get(n).requests));
    plot("errors", names, t, names.map((n) => flows.get(n).errors));
    plot("latency", ["p50", "p90", "p99"], t, [0.5, 0.9, 0.99].map((p) => { const v = percentile(latency, p); return v === null ? null : v * 1000; }));
    const verdicts = [...packets.keys()].sort().slice(0, 5);
    plot("packets", verdicts.length ? verdicts : ["no packets are counted"], t, verdicts.length ? verdicts.map((v) => packets.get(v)) : [0]);
  }
  table("traffic-table", [["Listener"], ["Requests/s", "number"], ["Errors/s", "number"], ["p50", "number"], ["p99", "number"], ["In/s", "number"], ["Out/s", "number"], ["Requests", "number"]],
    [...flows.entries()].map(([name, r]) => [name, amount(r.requests), [amount(r.errors), r.errors > 0 ? "bad" : ""], duration(percentile(r.buckets, 0.5)), duration(percentile(r.buckets, 0.99)),
      bytes(r.bytesIn), bytes(r.bytesOut), amount(r.flow.requests)]), "no listener");

  const pools = new Map(s.pools.map((p) => [p.name, p]));
  table("routes-table", [["#", "number"], ["Match", "wide"], ["Filters", "span"], ["To", "wide"], ["Usable", "number"]],
    s.routes.map((r) => {
      const to = r.target.replace(/^(pool|split) /, "").split(" ").map((name) => pools.get(name) || pools.get(name.replace(/:\d+$/, ""))).filter(Boolean);
      const tone = to.some((p) => !p.usable) ? "bad" : to.some((p) => p.usable < p.backends) ? "warn" : "good";
      return [r.index, r.match, (r.filters || []).join(", ") || "-", r.target, to.length ? [to.map((p) => `${p.usable} of ${p.backends}`).join(", "), tone] : "-"];
    }), "no route: every request is answered 404");

  const order = (b) => (bad.includes(b.state) ? 0 : b.state === "up" ? 2 : 1);
  table("backends-table", [["Backend", "wide"], ["State"], ["Why", "wide"], ["For", "number"], ["Weight", "number"], ["Active", "number"], ["Requests/s", "number"], ["Errors/s", "number"], ["p99", "number"]],
    now.backends.slice().sort((a, b) => order(a) - order(b)).map((b) => {
      const r = servers.get(b.id);
      const why = b.ejected ? `${b.ejected.reason}, until ${clockTime(new Date(b.ejected.until))}` : b.drain ? "an operator drains it" : b.disable ? "an operator disabled it" : b.check || "no check has ended yet";
      return [b.id + (b.backup ? " (backup)" : ""), [b.state, tone(b.state)], why, ago(b.since, clock), b.weight, b.active,
        r ? amount(r.requests) : "-", r ? [amount(r.errors), r.errors > 0 ? "bad" : ""] : "-", r ? duration(percentile(r.buckets, 0.99)) : "-"];
    }), "no backend");

  table("nodes-table", [["Node", "wide"], ["State"], ["Sync"], ["Weight", "number"], ["View"], ["Connections", "number"], ["Address", "span"]],
    s.nodes.map((n) => [n.name + (n.self ? " (this)" : ""), [n.state, tone(n.state)], [n.in_sync || n.self ? "in sync" : n.differs ? "other " + n.differs : "out of sync", n.in_sync || n.self ? "good" : "bad"],
      n.weight, n.view ? n.view.toString(16) : "-", n.connections === undefined ? "-" : amount(n.connections), n.address || "-"]));
  table("workers-table", [["Worker"], ["State"], ["PID", "number"], ["Slots"], ["Version", "span"], ["For", "number"], ["Restarts", "number"], ["Detail", "wide"]],
    s.workers.map((w) => [w.name, [w.state, tone(w.state)], w.pid, (w.slots || []).join(" ") || "-", w.version || "-", ago(w.since, clock), [w.restarts, w.restarts ? "warn" : ""], w.detail || ""]));
  before = now;
}

function numbers(all) {
  $("numbers").replaceChildren(...all.map(([name, value, className]) => {
    const d = element("div");
    d.append(element("dt", name), element("dd", value, className));
    return d;
  }));
}

// folded are events, newest first, where one that repeats what was last said of
// its subject is a number only.
function folded(list) {
  const last = new Map();
  const out = [];
  for (const e of list) {
    const of = last.get(e.subject);
    if (of && of.e.kind === e.kind) {
      of.n++;
      continue;
    }
    const one = { e, n: 1 };
    last.set(e.subject, one);
    out.push(one);
  }
  return out;
}

function showEvents() {
  table("events-table", [["Time"], ["Event", "span"], ["Of", "wide"], ["Detail", "wide"]],
    folded(events).map(({ e, n }) => [clockTime(new Date(e.time)), e.kind, e.subject, [e.reason, e.detail].filter(Boolean).join(": ") + (n > 1 ? ` (${n} times)` : "")]), "nothing yet");
}

// ---- the stream

function listen() {
  const stream = new EventSource("dashboard/stream");
  stream.addEventListener("look", (m) => show(JSON.parse(m.data)));
  stream.addEventListener("happened", (m) => {
    const e = JSON.parse(m.data);
    if (events.some((o) => o.seq === e.seq && o.time === e.time)) return; // the stream was opened again
    events.unshift(e);
    events.length = Math.min(events.length, 50);
    showEvents();
  });
  stream.addEventListener("trouble", (m) => { $("state").textContent = JSON.parse(m.data); $("state").className = "badge bad"; });
  stream.onerror = () => {
    $("state").textContent = "no answer from the node";
    $("state").className = "badge bad";
    before = null;
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
}

showEvents();
listen();
