// The frame of a plot: vertical axis with grid lines, title of the horizontal axis, and labels along it.

const LETTER = 6.4; // width of a character of a label, pixels: a little more than the average
const PLOT_HEIGHT = { screen: 200, paper: 120 }; // between the axes, pixels
let onPaper = false; // whether the plots are drawn for printing

// Round numbers from low to high, about `wanted` of them.
function niceTicks(low, high, wanted) {
  const raw = (high - low) / Math.max(1, wanted) || 1, power = Math.pow(10, Math.floor(Math.log10(raw)));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-9; t += step) ticks.push(Math.abs(t) < step * 1e-9 ? 0 : t);
  return ticks;
}

// An empty plot: the svg, `y` from values to pixels, and the edges of the drawing area. `labels` is the height that the
// labels of the horizontal axis take.
function frame(plot, width, low, high, labels) {
  const ticks = niceTicks(low, high, 4);
  const top = Math.max(high, ticks[ticks.length - 1]), bottom = Math.min(low, ticks[0]);
  const text = (t) => (plot.unit === "share" ? plain(Math.round(t * 1e4) / 100) + " %" : plain(Number(t.toPrecision(6))));
  const left = 12 + LETTER * Math.max(...ticks.map((t) => text(t).length)), right = width - 8, above = 8;
  const title = wrapped(plot.x_label, right - left + 40);
  const tall = onPaper ? PLOT_HEIGHT.paper : PLOT_HEIGHT.screen, height = above + tall + labels + 7 + 15 * title.length;
  const y = (value) => above + (1 - (value - bottom) / (top - bottom || 1)) * tall;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": plot.title });
  for (const t of ticks) {
    svg.append(draw("line", { class: "axis", x1: left, x2: right, y1: y(t), y2: y(t) }),
      draw("text", { x: left - 6, y: y(t) + 4, "text-anchor": "end" }, text(t)));
  }
  title.forEach((line, i) => svg.append(draw("text", {
    class: "axis-title", x: Math.max((left + right) / 2, (line.length * LETTER) / 2), y: height - 4 - 15 * (title.length - 1 - i), "text-anchor": "middle",
  }, line)));
  return { svg, y, left, right, bottom: above + tall };
}

// A text in lines that fit into a width.
function wrapped(text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const last = lines[lines.length - 1];
    if (last && (last.length + 1 + word.length) * LETTER > width) lines.push(word);
    else lines[lines.length - 1] = last ? last + " " + word : word;
  }
  return lines;
}

// How the names under bars are set: level where they fit, slanted where they do not. Every bar has its name.
function labelStyle(names, slot) {
  const longest = Math.max(...names.map((name) => String(name).length)) * LETTER;
  const slanted = longest + 4 > slot;
  return { slanted, height: slanted ? Math.min(120, 12 + longest * 0.66) : 18 };
}

function barLabel(f, name, x, style) {
  const attributes = style.slanted
    ? { class: "bar-label", x: 0, y: 0, "text-anchor": "end", transform: `translate(${x + 4} ${f.bottom + 13}) rotate(-40)` }
    : { class: "bar-label", x, y: f.bottom + 16, "text-anchor": "middle" };
  return draw("text", attributes, name);
}

// Numbers along the horizontal axis of a line plot, as many as fit without touching.
function numberLabels(f, plot, x) {
  const every = plot.log_x || plot.x.length <= 8 ? plot.x.map((_, i) => i) : nearestPoints(plot.x, Math.min(8, Math.floor((f.right - f.left) / 70)));
  let reach = -Infinity;
  for (const i of every) {
    const text = plain(plot.x[i]), half = (text.length * LETTER) / 2, at = Math.min(x(i), f.right + 6 - half);
    if (at - half < reach + 6) continue;
    reach = at + half;
    f.svg.append(draw("text", { x: at, y: f.bottom + 16, "text-anchor": "middle" }, text));
  }
}

function nearestPoints(values, wanted) {
  const nearest = (t) => values.reduce((best, v, i) => (Math.abs(v - t) < Math.abs(values[best] - t) ? i : best), 0);
  return [...new Set(niceTicks(values[0], values[values.length - 1], wanted).map(nearest))];
}
