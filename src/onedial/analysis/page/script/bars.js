// Bars: beside each other ("bars"), on top of each other ("stack"), or weights that follow the dial ("dial").
// Series of the role "ghost" are outlines around the bars, those of the role "mark" short level lines.

const isGhost = (series) => series.role === "ghost";
const isMark = (series) => series.role === "mark";

// What a bar chart shows now: for each series its values and bounds. The dial gives its own.
function barSeries(plot, hidden, state) {
  const shown = plot.kind === "dial" ? dialSeries(plot, state.alpha) : plot.series;
  return shown.filter((series) => !hidden.has(series.name));
}

function bars(plot, width, hidden, state, pick) {
  const series = barSeries(plot, hidden, state), solid = series.filter((s) => !isGhost(s) && !isMark(s));
  const style = labelStyle(plot.x, (width - 60) / plot.x.length);
  const f = frame(plot, width, 0, topOf(plot, series), style.height), slot = (f.right - f.left) / plot.x.length;
  plot.x.forEach((name, i) => {
    const bar = Math.min(slot * 0.74, 74), middle = f.left + (i + 0.5) * slot;
    if (plot.kind === "stack") stackBar(f, solid, i, middle - bar / 2, bar);
    else solid.forEach((s, j) => oneBar(f, s, i, middle - bar / 2 + (j * bar) / solid.length, bar / solid.length));
    series.filter(isGhost).forEach((s) => ghostBar(f, s, i, middle, bar));
    series.filter(isMark).forEach((s) => f.svg.append(draw("line", { class: "mark", x1: middle - bar / 2 - 4, x2: middle + bar / 2 + 4, y1: f.y(s.y[i]), y2: f.y(s.y[i]) })));
    f.svg.append(barLabel(f, name, middle, style), target(plot, i, f, f.left + i * slot, slot, series, state, pick));
  });
  if (plot.kind === "dial") f.svg.append(theoryLine(plot, state.alpha, f));
  return f.svg;
}

function topOf(plot, series) {
  const tops = plot.x.map((_, i) => {
    const ends = series.flatMap((s) => [s.y[i] || 0, s.high[i] || 0]);
    return Math.max(...ends, plot.kind === "stack" ? series.reduce((sum, s) => sum + (s.y[i] || 0), 0) : 0, 0);
  });
  const top = Math.max(...tops, 1e-9);
  return plot.unit === "share" && top <= 1 ? Math.min(1, top * 1.04) : top * 1.04;
}

function stackBar(f, series, i, x, width) {
  let under = 0;
  for (const s of series) {
    if (!known(s.y[i])) continue;
    f.svg.append(block(f, s, x, width, under, under + s.y[i]), whisker(f, s, i, x + width / 2));
    under += s.y[i];
  }
}

function oneBar(f, s, i, x, width) {
  if (known(s.y[i])) f.svg.append(block(f, s, x, width, 0, s.y[i]), whisker(f, s, i, x + width / 2));
}

function block(f, s, x, width, low, high) {
  return draw("rect", { class: "fill c-" + s.role, x, width, y: f.y(high), height: Math.max(0, f.y(low) - f.y(high)), rx: 2 });
}

// The 95 % interval of a bar; nothing where there is none.
function whisker(f, s, i, x) {
  if (!known(s.low[i]) || !known(s.high[i])) return draw("g");
  const low = f.y(s.low[i]), high = f.y(s.high[i]);
  return draw("path", { class: "whisker", d: `M${x - 4} ${high}h8M${x} ${high}V${low}M${x - 4} ${low}h8` });
}

function ghostBar(f, s, i, middle, width) {
  if (!known(s.y[i])) return;
  const x = middle - width / 2 - 2;
  f.svg.append(draw("rect", { class: "outline c-ghost", x, width: width + 4, y: f.y(s.y[i]), height: Math.max(0, f.y(0) - f.y(s.y[i])), rx: 2 }));
}

// The area over and under a bar that answers to the mouse and the keyboard; a click lists the prompts behind the bar.
function target(plot, i, f, x, width, series, state, pick) {
  const members = plot.members[i] || [];
  const named = (s) => (s.name === plot.x[i] ? "" : s.name + ": "); // a bar of one kind is called after it already
  const lines = series.filter((s) => known(s.y[i])).map((s) => `${named(s)}${show(s.y[i], plot.unit)}${bracketed(s.low[i], s.high[i], plot.unit)}`);
  const said = members.length ? [...lines, "click: list prompts"] : lines;
  const tell = (event) => showTip(event, String(plot.x[i]), said);
  const chosen = (members.length ? " hot" : "") + (state.picked === i ? " picked" : "");
  const area = draw("rect", {
    class: "hit" + chosen, x, width, y: 8, height: f.bottom - 8, tabindex: 0, "data-bar": i,
    role: members.length ? "button" : "img", "aria-label": `${plot.x[i]}. ${lines.join(". ")}`,
    onmousemove: tell, onmouseleave: hideTip, onfocus: tell, onblur: hideTip,
  });
  if (members.length) {
    const press = () => { hideTip(); pick(i); };
    area.addEventListener("click", press);
    area.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); press(); } });
  }
  return area;
}
