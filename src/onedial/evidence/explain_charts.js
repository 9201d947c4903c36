// Small SVG charts: lines over one axis with a marked point, and bars. No library: the page loads nothing.
"use strict";

const charts = {
  // Charts are drawn at the width of their place, so that their text keeps its size on a phone.
  width: (host) => Math.max(260, Math.min(560, host.clientWidth || 520)),
  HEIGHT: 230,
  LEFT: 52,
  BOTTOM: 40,
  TOP: 12,
  RIGHT: 14,

  node: (tag, attributes = {}, text = null) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== null) made.textContent = text;
    return made;
  },

  // Three significant digits, without exponents where that is readable.
  short: (value) => {
    if (value === null || Number.isNaN(value)) return "–";
    if (!Number.isFinite(value)) return "∞";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e6) return String(value).replace("-", "−");
    if (size !== 0 && (size < 0.0005 || size >= 1e6)) return value.toExponential(1).replace("e", " × 10^").replace("+", "");
    const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : size >= 0.01 ? 3 : 4;
    return value.toFixed(digits).replace("-", "−");
  },

  // A tick's label: no digits beyond those that tell ticks apart.
  tick: (value) => String(Number(value.toPrecision(3))).replace("-", "−"),

  ticks: (low, high, count = 5) => {
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + 1e-9 * step; at += step) found.push(at);
    return found;
  },

  // lines: [{name, kind, points: [[x, y], …]}]; at: x of the marked point or null
  lines: (host, { title, x, y, lines, at = null, high = null }) => {
    const { HEIGHT, LEFT, BOTTOM, TOP, RIGHT } = charts;
    const WIDTH = charts.width(host);
    const xs = lines.flatMap((line) => line.points.map((point) => point[0]));
    const ys = lines.flatMap((line) => line.points.map((point) => point[1])).filter(Number.isFinite);
    const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
    const [y0, y1] = [Math.min(0, ...ys), high ?? Math.max(...ys) * 1.06];
    const px = (value) => LEFT + ((value - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
    const py = (value) => HEIGHT - BOTTOM - ((Math.min(value, y1) - y0) / (y1 - y0)) * (HEIGHT - BOTTOM - TOP);
    const svg = charts.node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
    for (const tick of charts.ticks(y0, y1)) {
      svg.append(charts.node("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: py(tick), y2: py(tick), class: "grid" }));
      svg.append(charts.node("text", { x: LEFT - 7, y: py(tick) + 4, class: "tick end" }, charts.tick(tick)));
    }
    for (const tick of charts.ticks(x0, x1)) {
      svg.append(charts.node("text", { x: px(tick), y: HEIGHT - BOTTOM + 17, class: "tick middle" }, charts.tick(tick)));
    }
    svg.append(charts.node("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 5, class: "axis middle" }, x));
    const up = charts.node("text", { x: 0, y: 0, class: "axis middle" }, y);
    up.setAttribute("transform", `translate(12 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)`);
    svg.append(up);
    for (const line of lines) {
      const inside = line.points.filter((point) => Number.isFinite(point[1]) && point[1] <= y1);
      const path = inside.map((point, i) => `${i ? "L" : "M"}${px(point[0]).toFixed(1)} ${py(point[1]).toFixed(1)}`);
      svg.append(charts.node("path", { d: path.join(""), class: `line ${line.kind}` }));
    }
    if (at !== null) {
      svg.append(charts.node("line", { x1: px(at), x2: px(at), y1: TOP, y2: HEIGHT - BOTTOM, class: "mark" }));
    }
    charts.place(host, title, svg, lines);
  },

  // bars: [{name, kind, value}]
  bars: (host, { title, bars }) => {
    const { LEFT, RIGHT } = charts;
    const WIDTH = charts.width(host);
    const rowHeight = 26;
    const label = 150;
    const low = Math.min(0, ...bars.map((bar) => bar.value));
    const top = Math.max(0, ...bars.map((bar) => bar.value));
    const span = top - low || 1;
    const px = (value) => label + ((value - low) / span) * (WIDTH - label - RIGHT - LEFT);
    const svg = charts.node("svg", { viewBox: `0 0 ${WIDTH} ${bars.length * rowHeight + 8}`, role: "img", "aria-label": title });
    bars.forEach((bar, i) => {
      const y = i * rowHeight + 4;
      svg.append(charts.node("text", { x: label - 8, y: y + 15, class: "tick end" }, bar.name));
      const [from, to] = [px(Math.min(0, bar.value)), px(Math.max(0, bar.value))];
      svg.append(charts.node("rect", { x: from, y, width: Math.max(1, to - from), height: rowHeight - 8, class: `bar ${bar.kind}` }));
      svg.append(charts.node("text", { x: px(Math.max(0, bar.value)) + 6, y: y + 15, class: "tick" }, charts.short(bar.value)));
    });
    charts.place(host, title, svg, []);
  },

  place: (host, title, svg, lines) => {
    const heading = document.createElement("h3");
    heading.textContent = title;
    const legend = document.createElement("p");
    legend.className = "legend";
    for (const line of lines) {
      const key = document.createElement("span");
      key.className = `key ${line.kind}`;
      key.textContent = line.name;
      legend.append(key);
    }
    host.replaceChildren(heading, svg, legend);
  },
};
