// Lines over numbers: raw points, a line through them (smoothed where the plot brings `extra.smooth`), and a 95 % band.

// The values of a series' line: smoothed where there are smoothed ones.
function lineValues(plot, s) {
  const smooth = plot.extra.smooth;
  return smooth ? smooth[plot.series.indexOf(s)] : s.y;
}

function lines(plot, width, hidden) {
  const series = plot.series.filter((s) => !hidden.has(s.name));
  const [low, high] = span(plot, series), f = frame(plot, width, low, high, 18);
  const xs = plot.x.map((v) => (plot.log_x ? Math.log2(v) : v)), first = xs[0], last = xs[xs.length - 1];
  const x = (i) => f.left + 6 + (last === first ? 0.5 : (xs[i] - first) / (last - first)) * (f.right - f.left - 12);
  numberLabels(f, plot, x);
  for (const s of series) band(f, s, x);
  for (const s of series) paintLine(f, plot, s, x);
  follow(f, plot, series, x, width);
  return f.svg;
}

// The vertical range: from 0 for shares and for values that come near it.
function span(plot, series) {
  const all = series.flatMap((s) => [...s.y, ...s.low, ...s.high]).filter(known);
  if (!all.length) return [0, 1];
  let low = Math.min(...all), high = Math.max(...all);
  if (plot.unit === "share" || (low > 0 && low < 0.6 * high)) low = Math.min(0, low);
  if (high === low) high = low + (Math.abs(low) || 1);
  return [low, plot.unit === "share" && high <= 1 ? Math.min(1, high * 1.02) : high];
}

function band(f, s, x) {
  const kept = s.y.map((_, i) => i).filter((i) => known(s.low[i]) && known(s.high[i]));
  if (!kept.length) return;
  const up = kept.map((i) => `${x(i)} ${f.y(s.high[i])}`), down = kept.map((i) => `${x(i)} ${f.y(s.low[i])}`).reverse();
  f.svg.append(kept.length > 1
    ? draw("path", { class: "band c-" + s.role, d: "M" + [...up, ...down].join("L") + "Z" })
    : whisker(f, s, kept[0], x(kept[0])));
}

function paintLine(f, plot, s, x) {
  const values = lineValues(plot, s), smoothed = values !== s.y;
  const dot = (i, r, more) => draw("circle", { class: `${more} c-${s.role}`, r, cx: x(i), cy: f.y(s.y[i]) });
  let path = "", pen = false;
  values.forEach((value, i) => {
    if (smoothed && known(s.y[i])) f.svg.append(dot(i, 1.7, "raw"));
    if (!known(value)) { pen = false; return; }
    path += (pen ? "L" : "M") + x(i) + " " + f.y(value);
    const alone = !pen && !known(values[i + 1]);
    if (!smoothed && (alone || values.length <= 12)) f.svg.append(dot(i, 3.2, "fill"));
    pen = true;
  });
  f.svg.append(draw("path", { class: "stroke c-" + s.role, d: path || "M0 0" }));
}

// A cross-hair that follows the mouse and tells the values at the nearest point.
function follow(f, plot, series, x, width) {
  const cross = draw("line", { class: "cross", visibility: "hidden", y1: 8, y2: f.bottom });
  const dots = series.map((s) => draw("circle", { r: 4, class: "fill c-" + s.role, visibility: "hidden" }));
  const move = (event) => {
    const box = f.svg.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * width;
    const i = plot.x.reduce((best, _, j) => (Math.abs(x(j) - at) < Math.abs(x(best) - at) ? j : best), 0);
    dress(cross, { x1: x(i), x2: x(i), visibility: "visible" });
    series.forEach((s, j) => dress(dots[j], known(s.y[i]) ? { cx: x(i), cy: f.y(s.y[i]), visibility: "visible" } : { visibility: "hidden" }));
    showTip(event, `${plot.x_label}: ${plain(plot.x[i])}`, series.map((s) => `${s.name}: ${pointText(plot, s, i)}`));
  };
  const leave = () => { [cross, ...dots].forEach((mark) => mark.setAttribute("visibility", "hidden")); hideTip(); };
  f.svg.append(cross, ...dots, draw("rect", { class: "hit", x: f.left, y: 8, width: f.right - f.left, height: f.bottom - 8, onmousemove: move, onmouseleave: leave }));
}

// The interval belongs to the smoothed value where there is one.
function pointText(plot, s, i) {
  const values = lineValues(plot, s), value = show(s.y[i], plot.unit), interval = bracketed(s.low[i], s.high[i], plot.unit);
  return values === s.y ? value + interval : `${value}; smoothed ${show(values[i], plot.unit)}${interval}`;
}
