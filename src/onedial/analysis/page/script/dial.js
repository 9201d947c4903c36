// The dial α: the share of the total weight by difficulty, for any α between 0 and 2.
//
// A group weighs σ̂^(2−α). `extra.sigma` holds the values of σ̂, `extra.counts` per bin how many groups have each of
// them; `extra.spread` the sums of squared weights of prompts that an interval needs, per α of `extra.alphas` and bin;
// `extra.size` the commonest group size.

const SETTINGS = [["Dr. GRPO, RLOO", 0], ["GRPO, DAPO", 1], ["classes equal", 2]];

// The share of the total weight in each bin.
function dialShares(plot, alpha) {
  const totals = dialTotals(plot, alpha), all = totals.reduce((a, b) => a + b, 0);
  return totals.map((total) => (all ? total / all : 0));
}

function dialTotals(plot, alpha) {
  return plot.extra.counts.map((row) => row.reduce((sum, count, i) => sum + count * Math.pow(plot.extra.sigma[i], 2 - alpha), 0));
}

// Half the width of the 95 % interval of each share, by the delta method over prompts: a share is a ratio of sums over
// prompts, whose variance is ((1 − 2s) Q_bin + s² Q) / T², with Q the sum of squared weights of prompts.
function dialReach(plot, alpha) {
  const spread = plot.extra.spread;
  if (!spread) return null;
  const place = plot.extra.alphas.reduce((best, a, i) => (Math.abs(a - alpha) < Math.abs(plot.extra.alphas[best] - alpha) ? i : best), 0);
  const squares = spread[place], all = squares.reduce((a, b) => a + b, 0);
  const total = dialTotals(plot, plot.extra.alphas[place]).reduce((a, b) => a + b, 0);
  return dialShares(plot, plot.extra.alphas[place]).map((s, i) => (1.96 * Math.sqrt(Math.max(0, (1 - 2 * s) * squares[i] + s * s * all))) / total);
}

const dialReference = (alpha) => (alpha === 1 ? 0 : 1); // the setting drawn as an outline

// The series of the chart: weights now, weights at the other setting as an outline, and the share of groups as marks.
function dialSeries(plot, alpha) {
  const y = dialShares(plot, alpha), reach = dialReach(plot, alpha), other = dialReference(alpha);
  const bound = (sign) => (reach ? y.map((s, i) => (s > 0 ? Math.min(1, Math.max(0, s + sign * reach[i])) : null)) : []);
  const groups = plot.series.find(isGhost);
  return [
    { name: "weight", role: "plain", y, low: bound(-1), high: bound(1) },
    { name: `weight at α = ${other}`, role: "ghost", y: dialShares(plot, other), low: [], high: [] },
    { name: "groups", role: "mark", y: groups.y, low: [], high: [] },
  ];
}

// Expected weight of one group of `size` rollouts at solve rate p: Σ_k Binomial(k; size, p) σ̂(k)^(2−α).
function expectedWeight(p, size, alpha) {
  let sum = 0, term = Math.pow(1 - p, size);
  for (let k = 1; k < size; k++) {
    term *= ((size - k + 1) / k) * (p / (1 - p));
    sum += term * Math.pow((k / size) * (1 - k / size), (2 - alpha) / 2);
  }
  return sum;
}

// That weight over p, scaled to the height of the plot.
function theoryLine(plot, alpha, f) {
  const size = plot.extra.size;
  if (!size || size < 2) return draw("g");
  const rates = Array.from({ length: 99 }, (_, i) => (i + 1) / 100), weights = rates.map((p) => expectedWeight(p, size, alpha));
  const most = Math.max(...weights), height = 0.94 * (f.bottom - 8);
  const points = rates.map((p, i) => `${f.left + p * (f.right - f.left)} ${f.bottom - (height * weights[i]) / most}`);
  return draw("path", { class: "stroke theory c-alt", d: "M" + points.join("L") });
}

// The slider with its named settings.
function dialControl(state, repaint) {
  const output = make("output", {}, "α = 1.00");
  const slider = make("input", { type: "range", min: 0, max: 2, step: 0.05, value: 1, "aria-label": "dial α", oninput: () => turn(Number(slider.value)) });
  const buttons = SETTINGS.map(([name, alpha]) => make("button", { type: "button", "aria-pressed": String(alpha === 1), onclick: () => { slider.value = alpha; turn(alpha); } }, name));
  function turn(alpha) {
    state.alpha = alpha;
    output.textContent = "α = " + alpha.toFixed(2);
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(SETTINGS[i][1] === alpha)));
    repaint();
  }
  return make("div", { class: "dial no-print" }, output, slider, buttons);
}
