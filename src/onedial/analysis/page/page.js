// The page's only script. Everything shown comes from the JSON block and goes in through textContent or
// setAttribute of fixed names: no innerHTML, so text of a log is never markup.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const tip = make("div", { class: "tip", role: "status" });

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  return dress(node, attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), attributes, children);
}

function dress(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined) node.append(child.nodeType ? child : document.createTextNode(String(child)));
  }
  return node;
}

// ---- numbers ---------------------------------------------------------------------------------------------------
function show(value, unit) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (unit === "share" || unit === "difference of shares") {
    const percent = 100 * value, size = Math.abs(percent);
    const digits = size === 0 || size === 100 ? 0 : size < 0.1 ? 2 : size < 10 || size > 99 ? 1 : 0;
    return (unit === "share" ? "" : percent > 0 ? "+" : "") + percent.toFixed(digits).replace("-", "−") + (unit === "share" ? " %" : " points");
  }
  return plain(value) + (unit === "ratio" ? "×" : "");
}

function plain(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (Number.isInteger(value) && size < 1e15) return value.toLocaleString("en-US").replace("-", "−");
  const text = size >= 1000 ? Math.round(value).toLocaleString("en-US") : size >= 0.001 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
  return text.replace("-", "−");
}

function range(low, high, unit) {
  return low === null || low === undefined || high === null ? "" : `95 %: ${show(low, unit)} to ${show(high, unit)}`;
}

// `code` between backticks
function prose(text) {
  return text.split("`").map((part, i) => (i % 2 ? make("code", {}, part) : part));
}

// ---- the tip ---------------------------------------------------------------------------------------------------
function showTip(event, title, lines) {
  tip.replaceChildren(make("b", {}, title), ...lines.map((line) => make("div", {}, line)));
  tip.style.display = "block";
  tip.dataset.by = event.type;
  const box = tip.getBoundingClientRect();
  const from = event.clientX === undefined || (event.clientX === 0 && event.type === "focus") ? event.target.getBoundingClientRect() : null;
  const x = from ? from.left + from.width / 2 : event.clientX, y = from ? from.top + 20 : event.clientY;
  tip.style.left = Math.max(6, Math.min(innerWidth - box.width - 6, x + 14)) + "px";
  tip.style.top = Math.max(6, y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18) + "px";
}
function hideTip() { tip.style.display = "none"; }

// ---- plots -----------------------------------------------------------------------------------------------------
const redraws = [];

function plotNode(plot) {
  const holder = make("div"), hidden = new Set(), listed = make("div");
  const state = { alpha: 1, picked: -1 };
  const root = make("div", { class: "plot", "data-kind": plot.kind }, make("h4", {}, plot.title), make("div", { class: "small soft" }, "↑ " + plot.y_label));
  const repaint = () => {
    const width = Math.max(260, Math.round(root.clientWidth || 520));
    const picture = plot.kind === "line" ? lines(plot, width, hidden) : bars(plot, width, hidden, state, pick);
    holder.replaceChildren(picture);
  };
  const pick = (index) => {
    state.picked = state.picked === index ? -1 : index;
    listed.replaceChildren(...(state.picked < 0 ? [] : [promptList(plot, index, () => pick(index))]));
    repaint();
  };
  if (plot.kind === "dial") root.append(dial(state, repaint));
  root.append(holder, legend(plot, hidden, repaint), listed);
  if (plot.note) root.append(make("div", { class: "small soft" }, plot.note));
  if (plot.members.length) root.append(make("div", { class: "small soft no-print" }, "Click a bar to list its prompts."));
  root.append(numbers(plot, state));
  redraws.push(repaint);
  return root;
}

function legend(plot, hidden, repaint) {
  if (plot.series.length < 2) return make("span");
  return make("div", { class: "legend" }, plot.series.map((series) =>
    make("button", { type: "button", "aria-pressed": "true", title: "show or hide", onclick: (event) => {
      hidden.has(series.name) ? hidden.delete(series.name) : hidden.add(series.name);
      event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(series.name)));
      repaint();
    } }, make("i", { class: "c-" + series.role }), series.name)));
}

function dialValues(plot, alpha) {
  const totals = plot.extra.counts.map((row) => row.reduce((sum, count, i) => sum + count * Math.pow(plot.extra.sigma[i], 2 - alpha), 0));
  const all = totals.reduce((a, b) => a + b, 0);
  return totals.map((total) => (all ? total / all : 0));
}

function dial(state, repaint) {
  const output = make("output", {}, "α = 1.00"), presets = [["Dr. GRPO, RLOO", 0], ["GRPO, DAPO", 1], ["classes equal", 2]];
  const slider = make("input", { type: "range", min: 0, max: 2, step: 0.05, value: 1, "aria-label": "dial α", oninput: () => turn(Number(slider.value)) });
  const buttons = presets.map(([name, alpha]) => make("button", { type: "button", "aria-pressed": String(alpha === 1), onclick: () => { slider.value = alpha; turn(alpha); } }, name));
  function turn(alpha) {
    state.alpha = alpha;
    output.textContent = "α = " + alpha.toFixed(2);
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(presets[i][1] === alpha)));
    repaint();
  }
  return make("div", { class: "dial no-print" }, output, slider, buttons);
}

function niceTicks(low, high, wanted) {
  const raw = (high - low) / Math.max(1, wanted) || 1, power = Math.pow(10, Math.floor(Math.log10(raw)));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step) ticks.push(Math.abs(t) < step * 1e-9 ? 0 : t);
  return ticks;
}

function frame(plot, width, height, low, high) {
  const ticks = niceTicks(low, high, 4);
  const top = Math.max(high, ticks[ticks.length - 1]), bottom = Math.min(low, ticks[0]);
  const label = (t) => (plot.unit === "share" ? plain(Math.round(t * 1e4) / 100) + " %" : plain(Number(t.toPrecision(6))));
  const left = Math.min(64, 14 + 6.6 * Math.max(...ticks.map((t) => label(t).length))), right = 8, above = 8, below = 46;
  const y = (value) => above + (1 - (value - bottom) / (top - bottom || 1)) * (height - above - below);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": plot.title });
  for (const t of ticks) {
    svg.append(draw("line", { class: "axis", x1: left, x2: width - right, y1: y(t), y2: y(t) }));
    svg.append(draw("text", { x: left - 6, y: y(t) + 4, "text-anchor": "end" }, label(t)));
  }
  svg.append(draw("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, plot.x_label));
  return { svg, y, left, right: width - right, bottom: height - below, base: Math.max(bottom, 0) };
}

function bars(plot, width, hidden, state, pick) {
  const height = 250, series = plot.series.filter((s) => !hidden.has(s.name));
  const values = (s) => (plot.kind === "dial" && s.role !== "ghost" ? dialValues(plot, state.alpha) : s.y);
  const stack = plot.kind === "stack";
  const tops = plot.x.map((_, i) => stack
    ? Math.max(series.reduce((sum, s) => sum + (s.y[i] || 0), 0), ...series.map((s) => s.high[i] || 0))
    : Math.max(0, ...series.map((s) => Math.max(values(s)[i] || 0, s.high[i] || 0))));
  const high = Math.min(plot.unit === "share" ? 1 : Infinity, Math.max(...tops, 1e-9) * 1.04);
  const f = frame(plot, width, height, 0, high), slot = (f.right - f.left) / plot.x.length;
  const every = Math.max(1, Math.ceil((Math.max(...plot.x.map((x) => String(x).length)) * 6.3 + 8) / slot));
  plot.x.forEach((name, i) => {
    const x0 = f.left + i * slot, w = Math.min(slot * 0.74, 74), x = x0 + (slot - w) / 2;
    let under = 0;
    const solid = series.filter((s) => s.role !== "ghost");
    solid.forEach((s, number) => {
      const value = values(s)[i];
      if (value === null || value === undefined) return;
      const part = stack ? w : w / solid.length, at = stack ? x : x + number * part;
      f.svg.append(draw("rect", { class: "fill c-" + s.role, x: at, width: part, y: f.y(under + value), height: Math.max(0, f.y(under) - f.y(under + value)), rx: 2 }));
      if (s.low[i] !== null && s.low[i] !== undefined && plot.kind !== "dial") {
        const c = at + part / 2;
        f.svg.append(draw("path", { class: "whisker", fill: "none", d: `M${c - 4} ${f.y(s.high[i])}h8M${c} ${f.y(s.high[i])}V${f.y(s.low[i])}M${c - 4} ${f.y(s.low[i])}h8` }));
      }
      if (stack) under += value;
    });
    series.filter((s) => s.role === "ghost").forEach((s) => {
      const value = s.y[i];
      if (value !== null) f.svg.append(draw("rect", { class: "outline c-ghost", x: x - 2, width: w + 4, y: f.y(value), height: Math.max(0, f.y(0) - f.y(value)), rx: 2 }));
    });
    if (i % every === 0) f.svg.append(draw("text", { x: x0 + slot / 2, y: f.bottom + 16, "text-anchor": "middle" }, name));
    f.svg.append(hit(plot, i, x0, slot, f, series, values, state, pick));
  });
  return f.svg;
}

function hit(plot, i, x0, slot, f, series, values, state, pick) {
  const members = plot.members[i] || [], told = series.filter((s) => values(s)[i] !== null && values(s)[i] !== undefined);
  const lines = told.map((s) => `${s.name}: ${show(values(s)[i], plot.unit)} ${plot.kind === "dial" ? "" : range(s.low[i], s.high[i], plot.unit)}`.trim());
  const more = members.length ? ["click: list prompts"] : [];
  const rect = draw("rect", {
    class: "hit" + (members.length ? " hot" : "") + (state.picked === i ? " picked" : ""), x: x0, width: slot, y: 8, height: f.bottom - 8, tabindex: 0,
    role: members.length ? "button" : "img", "aria-label": `${plot.x[i]}. ${lines.join(". ")}`, "data-bar": i,
    onmousemove: (event) => showTip(event, String(plot.x[i]), [...lines, ...more]), onmouseleave: hideTip,
    onfocus: (event) => showTip(event, String(plot.x[i]), [...lines, ...more]), onblur: hideTip,
  });
  if (members.length) {
    rect.addEventListener("click", () => { hideTip(); pick(i); });
    rect.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); hideTip(); pick(i); } });
  }
  return rect;
}

function lines(plot, width, hidden) {
  const height = 250, series = plot.series.filter((s) => !hidden.has(s.name));
  const all = series.flatMap((s) => [...s.y, ...s.low, ...s.high]).filter((v) => v !== null);
  let low = Math.min(...all), high = Math.max(...all);
  if (!all.length) [low, high] = [0, 1];
  if (plot.unit === "share" || low > 0 && low < 0.6 * high) low = Math.min(0, low);
  if (high === low) high = low + (Math.abs(low) || 1);
  const f = frame(plot, width, height, low, plot.unit === "share" ? Math.min(1, high * 1.02) || 1 : high);
  const scale = plot.log_x ? Math.log2 : (v) => v, xs = plot.x.map((v) => scale(v));
  const first = xs[0], last = xs[xs.length - 1];
  const x = (i) => f.left + 6 + (last === first ? 0.5 : (xs[i] - first) / (last - first)) * (f.right - f.left - 12);
  const marks = plot.log_x ? plot.x.map((_, i) => i) : xTicks(plot, Math.floor(width / 70));
  let reach = -Infinity;
  for (const i of marks) {
    const half = String(plain(plot.x[i])).length * 3.4;
    if (x(i) - half < reach + 6) continue;
    reach = x(i) + half;
    f.svg.append(draw("text", { x: x(i), y: f.bottom + 16, "text-anchor": "middle" }, plain(plot.x[i])));
  }
  for (const s of series) paintLine(f, s, x);
  const cross = draw("line", { class: "cross", visibility: "hidden", y1: 8, y2: f.bottom });
  const dots = series.map((s) => draw("circle", { r: 4, class: "fill c-" + s.role, visibility: "hidden" }));
  const move = (event) => {
    const box = f.svg.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * width;
    let i = 0;
    plot.x.forEach((_, j) => { if (Math.abs(x(j) - at) < Math.abs(x(i) - at)) i = j; });
    dress(cross, { x1: x(i), x2: x(i), visibility: "visible" }, []);
    series.forEach((s, j) => dress(dots[j], s.y[i] === null ? { visibility: "hidden" } : { cx: x(i), cy: f.y(s.y[i]), visibility: "visible" }, []));
    showTip(event, `${plot.x_label}: ${plain(plot.x[i])}`, series.map((s) => `${s.name}: ${show(s.y[i], plot.unit)} ${range(s.low[i], s.high[i], plot.unit)}`));
  };
  const leave = () => { [cross, ...dots].forEach((mark) => mark.setAttribute("visibility", "hidden")); hideTip(); };
  f.svg.append(cross, ...dots, draw("rect", { class: "hit", fill: "transparent", x: f.left, y: 8, width: f.right - f.left, height: f.bottom - 8, onmousemove: move, onmouseleave: leave }));
  return f.svg;
}

function xTicks(plot, wanted) {
  const ticks = niceTicks(plot.x[0], plot.x[plot.x.length - 1], Math.min(wanted, 8));
  return [...new Set(ticks.map((t) => plot.x.reduce((best, v, i) => (Math.abs(v - t) < Math.abs(plot.x[best] - t) ? i : best), 0)))];
}

function paintLine(f, s, x) {
  if (s.low.length) {
    const kept = s.y.map((_, i) => i).filter((i) => s.low[i] !== null && s.high[i] !== null);
    const up = kept.map((i) => `${x(i)} ${f.y(s.high[i])}`), down = kept.map((i) => `${x(i)} ${f.y(s.low[i])}`).reverse();
    if (kept.length) f.svg.append(draw("path", { class: "band c-" + s.role, d: "M" + [...up, ...down].join("L") + "Z" }));
  }
  let path = "", pen = false;
  s.y.forEach((value, i) => {
    if (value === null) { pen = false; return; }
    path += (pen ? "L" : "M") + x(i) + " " + f.y(value);
    const alone = !pen && (i + 1 >= s.y.length || s.y[i + 1] === null);
    if (alone || s.y.length <= 12) f.svg.append(draw("circle", { class: "fill c-" + s.role, r: 3.4, cx: x(i), cy: f.y(value) }));
    pen = true;
  });
  f.svg.append(draw("path", { class: "stroke c-" + s.role, d: path || "M0 0" }));
}

function numbers(plot, state) {
  const box = make("details", { class: "no-print" }, make("summary", {}, "Numbers"));
  box.addEventListener("toggle", () => {
    if (!box.open) return;
    const columns = [plot.x_label], getters = [];
    for (const s of plot.series) {
      const moved = plot.kind === "dial" && s.role !== "ghost";
      columns.push(moved ? `${s.name} at α = ${state.alpha.toFixed(2)}` : s.name);
      getters.push((i) => (moved ? dialValues(plot, state.alpha)[i] : s.y[i]));
      if (s.low.length && plot.kind !== "dial") { columns.push("low", "high"); getters.push((i) => s.low[i], (i) => s.high[i]); }
    }
    const rows = plot.x.map((x, i) => [x, ...getters.map((get) => show(get(i), plot.unit))]);
    box.replaceChildren(box.firstChild, tableNode(columns, rows));
  });
  return box;
}

function tableNode(columns, rows) {
  const numeric = columns.map((_, j) => rows.length > 0 && rows.every((row) => row[j] === null || typeof row[j] === "number" || /^[–−+]?[\d.,]*( %| points)?$/.test(String(row[j]))));
  const cell = (value, j) => {
    const share = typeof value === "number" && !Number.isInteger(value) ? plain(value) : typeof value === "number" ? plain(value) : value === null ? "–" : String(value);
    return make("td", { class: numeric[j] ? "num" : share.length > 30 ? "text isolate" : "isolate", dir: numeric[j] ? null : "auto" }, share);
  };
  return make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, columns.map((name, j) => make("th", { class: numeric[j] ? "num" : null, scope: "col" }, name)))),
    make("tbody", {}, rows.map((row) => make("tr", {}, row.map(cell))))));
}

function promptList(plot, index, close) {
  const keys = plot.members[index] || [];
  const items = keys.map((key) => {
    const known = DATA.prompts[key] || {}, has = DATA.groups.some((group) => group.prompt_id === key);
    const score = known.n === undefined || known.k === null || known.k === undefined ? "" : `${known.k} of ${known.n} right`;
    return make("li", {}, make("span", { class: "text isolate", dir: "auto", title: known.text || key }, known.text || key), make("span", { class: "soft" }, score),
      has ? make("button", { type: "button", onclick: () => readPrompt(key) }, "read") : null);
  });
  return make("div", { class: "listed" }, make("div", { class: "head" }, make("b", {}, `${plot.x[index]}: ${keys.length} prompt${keys.length === 1 ? "" : "s"} shown`), make("button", { type: "button", onclick: close }, "close")), make("ol", {}, items));
}

// ---- findings --------------------------------------------------------------------------------------------------
function quiet(finding) { return finding.what_to_do.startsWith("Nothing"); }

function findingNode(finding) {
  const interval = finding.interval ? range(finding.interval[0], finding.interval[1], finding.unit) : "";
  const unit = ["share", "ratio", "difference of shares"].includes(finding.unit) ? "" : " " + finding.unit;
  const wide = finding.plots.length > 1 || finding.plots.some((plot) => plot.kind === "dial");
  const card = make("article", { class: "card" + (wide ? " wide" : ""), id: "f-" + finding.name },
    make("h3", {}, finding.title),
    make("div", { class: "figure" }, show(finding.value, finding.unit), make("small", {}, (unit + (interval ? "  " + interval : "")).trim())),
    make("p", {}, prose(finding.headline)));
  if (finding.what_to_do && !quiet(finding)) card.append(make("p", { class: "todo" }, make("b", {}, "Do: "), prose(finding.what_to_do)));
  if (finding.plots.length) card.append(make("div", { class: "plots" }, finding.plots.map(plotNode)));
  for (const table of finding.tables) {
    if (!table.rows.length) continue;
    const small = table.rows.length <= 7 && table.columns.length <= 5 && table.rows.every((row) => row.every((value) => String(value).length < 48));
    const rows = table.rows.map((row) => row.map((value, j) => (table.units[j] && typeof value === "number" ? show(value, table.units[j]) : value)));
    const box = make("details", { open: small }, make("summary", {}, `${table.title} (${table.rows.length})`), tableNode(table.columns, rows));
    card.append(box);
  }
  card.append(make("details", {}, make("summary", {}, "How it is defined, and why it matters"), make("dl", {},
    make("dt", {}, "Definition"), make("dd", {}, finding.definition), make("dt", {}, "Why it matters"), make("dd", {}, finding.why),
    finding.method ? [make("dt", {}, "Interval"), make("dd", {}, finding.method)] : [])));
  return card;
}

// ---- sample groups ---------------------------------------------------------------------------------------------
const reader = { kind: "all", words: "", current: null };
const KINDS = { mixed: "mixed", right: "all right", wrong: "all wrong", other: "all equal", one: "single", empty: "not judged" };

function readPrompt(key) {
  reader.kind = "all";
  reader.words = "";
  reader.current = DATA.groups.find((group) => group.prompt_id === key);
  paintReader();
  document.getElementById("groups").scrollIntoView({ behavior: "smooth" });
}

function paintReader() {
  const kept = DATA.groups.filter((group) => (reader.kind === "all" || group.kind === reader.kind) &&
    (!reader.words || (group.prompt + " " + group.prompt_id).toLowerCase().includes(reader.words.toLowerCase())));
  if (!kept.includes(reader.current)) reader.current = kept.find((group) => group.kind === "mixed") || kept[0] || null;
  document.querySelectorAll("[data-filter]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.filter === reader.kind)));
  document.getElementById("search").value = reader.words;
  document.getElementById("group-list").replaceChildren(...kept.map((group) => make("li", {},
    make("button", { type: "button", "aria-current": String(group === reader.current), onclick: () => { reader.current = group; paintReader(); } },
      make("span", { class: "chip c-" + group.kind }, KINDS[group.kind]), " ", dots(group), make("span", { class: "snip isolate", dir: "auto" }, group.prompt.slice(0, 120) || group.prompt_id)))));
  document.getElementById("group").replaceChildren(...(reader.current ? groupNode(reader.current) : [make("p", { class: "soft" }, "No group fits the filter.")]));
}

function dots(group) {
  return make("span", { class: "dots", title: "one mark per answer" }, group.rollouts.slice(0, 16).map((r) => make("span", { class: r.role }, r.role === "right" ? "●" : r.role === "wrong" ? "○" : "◌")));
}

function groupNode(group) {
  const facts = [group.iteration === null ? null : `iteration ${plain(group.iteration)}`, group.source, group.level, group.answer === null ? null : `reference answer: ${group.answer}`].filter(Boolean);
  const biggest = Math.max(...group.rollouts.map((r) => Math.abs(r.advantage || 0)), 1e-9);
  const more = group.hidden ? [make("p", { class: "soft small" }, `${group.hidden} more answers of this group are not shown.`)] : [];
  return [
    make("div", {}, make("span", { class: "chip c-" + group.kind }, KINDS[group.kind]), " ", make("span", { class: "soft small isolate" }, facts.join(" · "))),
    make("pre", { class: "prompt", dir: "auto" }, group.prompt || "(the log holds no prompt text)"),
    ...group.rollouts.map((r) => rolloutNode(r, biggest)), ...more];
}

function rolloutNode(r, biggest) {
  const facts = [r.reward === null ? null : `reward ${plain(r.reward)}`, r.shaped === null || r.shaped === r.reward ? null : `shaped ${plain(r.shaped)}`,
    r.parsed === null ? null : `answer: ${r.parsed}`, r.length === null ? null : `${plain(r.length)} ${DATA.length_unit}`, r.cut ? "cut at the limit" : null, r.fate].filter(Boolean);
  const meta = make("div", { class: "meta" }, make("b", {}, r.outcome), facts.map((fact) => make("span", { class: "isolate" }, fact)));
  if (r.advantage !== null) {
    const width = 44 * Math.abs(r.advantage) / biggest, bar = draw("svg", { width: 90, height: 10, "aria-hidden": "true" },
      draw("line", { class: "axis", x1: 45, x2: 45, y1: 0, y2: 10 }), draw("rect", { class: "fill c-" + (r.advantage >= 0 ? "right" : "wrong"), x: r.advantage >= 0 ? 45 : 45 - width, width, y: 2, height: 6 }));
    meta.append(make("span", {}, `advantage ${r.advantage > 0 ? "+" : ""}${plain(r.advantage)} `, bar));
  }
  return make("div", { class: "rollout c-" + r.role }, meta, make("pre", { dir: "auto" }, r.text === null ? "(the log holds no text)" : r.text));
}

// ---- the page --------------------------------------------------------------------------------------------------
function section(id, title, ...children) {
  return make("section", { id }, make("h2", {}, title), ...children);
}

function readerNode() {
  const kinds = ["all", ...Object.keys(KINDS).filter((kind) => DATA.groups.some((group) => group.kind === kind))];
  const count = (kind) => DATA.groups.filter((group) => kind === "all" || group.kind === kind).length;
  return section("groups", "Sample groups", make("p", { class: "soft" }, DATA.groups_note),
    make("div", { class: "filters" }, kinds.map((kind) => make("button", { type: "button", "data-filter": kind, onclick: () => { reader.kind = kind; paintReader(); } }, `${KINDS[kind] || "all"} (${count(kind)})`)),
      make("input", { type: "search", id: "search", placeholder: "find in prompts", "aria-label": "find in prompts", oninput: (event) => { reader.words = event.target.value; paintReader(); event.target.focus(); } })),
    make("div", { class: "reader" }, make("ul", { class: "groups", id: "group-list" }), make("div", { class: "card", id: "group" })));
}

function theme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const button = make("button", { type: "button", id: "theme", onclick: () => set(document.documentElement.dataset.theme === "dark" ? "light" : "dark", true) });
  function set(name, keep) {
    document.documentElement.dataset.theme = name;
    button.textContent = name === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `switch to ${name === "dark" ? "light" : "dark"} colours`);
    // a file opened from disk may have no storage; the choice then lasts as long as the page
    try { if (keep) localStorage.setItem("onedial-theme", name); } catch (error) { void error; }
  }
  let saved = null;
  try { saved = localStorage.getItem("onedial-theme"); } catch (error) { void error; }
  set(saved || (dark.matches ? "dark" : "light"), false);
  dark.addEventListener("change", (event) => set(event.matches ? "dark" : "light", false));
  return button;
}

function build() {
  const shown = DATA.findings.filter((f) => !f.withheld), kept = DATA.findings.filter((f) => f.withheld);
  const calm = shown.filter((f) => quiet(f) && !f.plots.length), loud = shown.filter((f) => !calm.includes(f));
  const main = make("main");
  document.body.append(
    make("header", {}, make("div", {}, make("h1", { class: "isolate", dir: "auto" }, DATA.title), make("div", { class: "soft isolate" }, DATA.subtitle)),
      make("div", { class: "tools" }, theme(), make("button", { type: "button", onclick: () => print() }, "Print"))),
    make("nav", { "aria-label": "sections" }, make("div", {}, [["findings", "Findings", shown.length], ["curves", "Curves", DATA.curves.length], ["groups", "Sample groups", DATA.groups.length], ["withheld", "Not shown, and why", kept.length]]
      .filter(([, , count]) => count).map(([id, name]) => make("a", { href: "#" + id }, name)))),
    main, make("footer", {}, DATA.footer), tip);
  main.append(make("div", { class: "facts" }, DATA.facts.map((fact) => make("div", { class: "fact" }, make("span", {}, fact.label), make("b", {}, show(fact.value, fact.unit)), make("span", {}, fact.note)))));
  if (DATA.notes.length) main.append(make("div", { class: "notice" }, make("b", {}, "What this log can and cannot show"), make("ul", {}, DATA.notes.map((note) => make("li", { class: "isolate" }, note)))));
  if (shown.length) main.append(section("findings", "Findings", make("div", { class: "grid" }, loud.map(findingNode),
    calm.length ? make("div", { class: "card wide", id: "calm" }, make("h3", {}, "Checked, nothing to do"), make("dl", {}, calm.map((f) => [make("dt", {}, f.title), make("dd", {}, prose(f.headline), f.interval ? make("span", { class: "small" }, ` (${range(f.interval[0], f.interval[1], f.unit)})`) : "")]))) : [])));
  if (DATA.curves.length) main.append(section("curves", "Curves of the run", make("div", { class: "grid" }, DATA.curves.map((plot) => make("div", { class: "card" }, plotNode(plot))))));
  if (DATA.groups.length) main.append(readerNode());
  if (kept.length) main.append(section("withheld", "Not shown, and why", make("div", { class: "card" }, make("dl", {}, kept.map((f) => [make("dt", {}, f.title), make("dd", {}, f.withheld)])))));
  if (DATA.groups.length) paintReader();
  repaintAll();
}

function repaintAll() { redraws.forEach((redraw) => redraw()); }

build();
let waiting = 0, known = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === known) return;
  known = innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(repaintAll, 120);
});
// focus by keyboard scrolls the bar into view: that must not take its tip away
addEventListener("scroll", () => { if (tip.dataset.by !== "focus") hideTip(); }, { passive: true });
document.documentElement.dataset.ready = "yes";
