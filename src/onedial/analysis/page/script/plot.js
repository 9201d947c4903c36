// A plot with its title, legend, note, table of numbers, and the list of prompts behind a bar.

const redraws = []; // one function per plot, called when the width of the window changes
const PAPER = { column: 310, wide: 650 }; // widths of plots on A4 and Letter, pixels

function plotNode(plot) {
  const holder = make("div"), hidden = new Set(), listed = make("div"), keys = make("div");
  const state = { alpha: 1, picked: -1 };
  const root = make("div", { class: "plot", "data-kind": plot.kind }, make("h4", {}, plot.title), make("div", { class: "small soft" }, "↑ " + plot.y_label));
  const repaint = () => {
    const paper = plot.kind === "dial" ? PAPER.wide : PAPER.column;
    const width = onPaper ? paper : Math.max(240, Math.round(root.clientWidth || 520));
    holder.replaceChildren(plot.kind === "line" ? lines(plot, width, hidden) : bars(plot, width, hidden, state, pick));
    keys.replaceChildren(legend(plot, hidden, state, repaint));
  };
  const pick = (index) => {
    state.picked = state.picked === index ? -1 : index;
    listed.replaceChildren(...(state.picked < 0 ? [] : [promptList(plot, index, () => pick(index))]));
    repaint();
  };
  if (plot.kind === "dial") root.append(dialControl(state, repaint));
  root.append(holder, keys, listed, hintNode(plot), numbers(plot, state));
  redraws.push(repaint);
  return root;
}

// What to know of the drawing, and that a click lists prompts.
function hintNode(plot) {
  const click = plot.members.some((part) => part.length) && !plot.note.includes("click") ? "click a bar to list its prompts" : "";
  const text = [plot.note, click].filter(Boolean).join("; ");
  return text ? make("div", { class: "small soft" }, text) : "";
}

// Names and colors of what is drawn; a click hides or shows it. Bars that are one kind each carry their names already.
function legend(plot, hidden, state, repaint) {
  const series = plot.kind === "dial" ? dialSeries(plot, state.alpha) : plot.series;
  const named = plot.kind !== "line" && (series.length < 2 || series.every((s) => s.y.filter(known).length <= 1));
  if (named) return make("span");
  const buttons = series.map((s) => make("button", {
    type: "button", "aria-pressed": String(!hidden.has(s.name)), title: "show or hide",
    onclick: () => { if (!hidden.delete(s.name)) hidden.add(s.name); repaint(); },
  }, make("i", { class: "c-" + s.role }), s.name));
  const theory = plot.kind === "dial" && plot.extra.size > 1
    ? make("span", { class: "key" }, make("i", { class: "line c-alt" }), `expected weight of one group of ${plot.extra.size} by solve rate (own scale)`) : null;
  return make("div", { class: "legend" }, buttons, theory);
}

// The values as a table, made when it is opened.
function numbers(plot, state) {
  const box = make("details", { class: "no-print" }, make("summary", {}, "Numbers"));
  box.addEventListener("toggle", () => { if (box.open) box.replaceChildren(box.firstChild, tableNode(...numberTable(plot, state))); });
  return box;
}

// [columns, rows]: one column per series, and one for its interval where there is one.
function numberTable(plot, state) {
  const series = plot.kind === "dial" ? dialSeries(plot, state.alpha) : plot.series;
  const columns = [plot.x_label], cells = [(i) => plot.x[i]];
  for (const s of series) {
    const values = plot.kind === "line" ? lineValues(plot, s) : s.y;
    columns.push(plot.kind === "dial" && s.name === "weight" ? `weight at α = ${state.alpha.toFixed(2)}` : s.name);
    cells.push((i) => show(s.y[i], plot.unit));
    if (values !== s.y) { columns.push(`${s.name}, smoothed`); cells.push((i) => show(values[i], plot.unit)); }
    if (s.low.some(known)) { columns.push("95 %"); cells.push((i) => interval(s, i, plot.unit)); }
  }
  return [columns, plot.x.map((_, i) => cells.map((cell) => cell(i)))];
}

function interval(s, i, unit) {
  return known(s.low[i]) && known(s.high[i]) ? `${show(s.low[i], unit)} to ${show(s.high[i], unit)}` : MISSING;
}

// The prompts behind a bar, with their counts and a way to their groups.
function promptList(plot, index, close) {
  const keys = plot.members[index] || [];
  const items = keys.map((key) => {
    const prompt = DATA.prompts[key] || {}, has = DATA.groups.some((group) => group.prompt_id === key);
    const score = known(prompt.n) && known(prompt.k) ? `${prompt.k} of ${prompt.n} correct` : "";
    return make("li", {}, make("span", { class: "text isolate", dir: "auto", title: prompt.text || key }, prompt.text || key),
      make("span", { class: "soft" }, score), has ? make("button", { type: "button", onclick: () => readPrompt(key) }, "read") : null);
  });
  const title = `${plot.x[index]}: ${keys.length} prompt${keys.length === 1 ? "" : "s"} shown`;
  return make("div", { class: "listed" }, make("div", { class: "head" }, make("b", {}, title), make("button", { type: "button", onclick: close }, "close")), make("ol", {}, items));
}
