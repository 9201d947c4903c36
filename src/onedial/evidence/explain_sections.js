// The five parts of the page. A part reads its sliders, computes with `formulas`, and writes numbers and charts.
// Every number on screen carries its full value in `data-value`, by which the tests compare it with the library.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const slider = (id) => Number(byId(id).value);

const show = (name, value, unit = "") => {
  const place = byId(name);
  place.dataset.value = value === null ? "" : String(value);
  place.textContent = charts.short(value) + unit;
};

const percent = (name, value) => {
  show(name, value);
  byId(name).textContent = `${charts.short(100 * value)} %`;
};

const cell = (text, { head = false, value = null, kind = "" } = {}) => {
  const made = document.createElement(head ? "th" : "td");
  made.textContent = text;
  if (value !== null) made.dataset.value = String(value);
  if (kind) made.className = kind;
  return made;
};

const fillTable = (id, rows) => {
  byId(id).replaceChildren(
    ...rows.map((cells) => {
      const row = document.createElement("tr");
      row.append(...cells);
      return row;
    }),
  );
};

const range = (low, high, count) => Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));

const AGGREGATES = [
  ["sequence_mean", "mean of each answer (GRPO)"],
  ["token_mean", "mean over all tokens (DAPO)"],
  ["fixed_length", "constant length (Dr. GRPO)"],
];

const drawLengths = () => {
  const lengths = [slider("length-a"), slider("length-b")];
  const advantage = slider("length-advantage");
  const budget = slider("length-budget");
  const rows = AGGREGATES.map(([aggregate, name]) => {
    // relative to a mean over the two answers, as the lecture writes it: B · w · A
    const token = formulas.tokenWeights(aggregate, lengths, budget).map((w) => w * lengths.length * advantage);
    return { aggregate, name, token, whole: token.map((w, i) => w * lengths[i]) };
  });
  fillTable("length-table", [
    ["", "a token of A", "a token of B", "all of A", "all of B"].map((text) => cell(text, { head: true })),
    ...rows.map((row) => [
      cell(row.name, { head: true }),
      ...[...row.token, ...row.whole].map((value) => cell(charts.short(value), { value })),
    ]),
  ]);
  charts.bars(byId("length-chart"), {
    title: "What one token of each answer is multiplied by",
    bars: rows.flatMap((row) => [
      { name: `${row.aggregate} · A`, kind: "first", value: row.token[0] },
      { name: `${row.aggregate} · B`, kind: "second", value: row.token[1] },
    ]),
  });
  const sign = advantage > 0 ? "short correct answers are pushed up harder per token" : "long wrong answers are pushed down more gently per token, so wrong answers grow";
  byId("length-says").textContent =
    advantage === 0 || lengths[0] === lengths[1]
      ? "With equal lengths or a zero advantage the three agree up to a constant."
      : `With the mean of each answer, ${sign}. The other two treat every token of both answers alike.`;
};

const drawGroup = () => {
  const [p, size, alpha] = [slider("group-p"), slider("group-size"), slider("group-alpha")];
  show("group-sigma", formulas.expectedSigma(p, size));
  show("group-weight", formulas.weight(p, size, alpha));
  show("group-limit", formulas.limitWeight(p, alpha));
  percent("group-silent", formulas.silentChance(p, size));
  percent("group-fidelity", formulas.fidelity(p, size));
  show("group-tries-paper", formulas.sizeForFidelity(p, 0.95));
  show("group-utility", formulas.utility(p, size, slider("group-rho")) / size);
  show("group-tries-cost", formulas.bestSize(p, slider("group-rho")));
  const rates = range(0.01, 0.99, 99);
  const curve = (name, kind, f) => ({ name, kind, points: rates.map((rate) => [rate, f(rate)]) });
  charts.lines(byId("group-weight-chart"), {
    title: "Weight of a prompt in the expected gradient",
    x: "solve rate p",
    y: "W(p)",
    at: p,
    high: Math.min(12, 1.1 * Math.max(formulas.weight(0.01, size, alpha), formulas.weight(0.5, size, alpha), 1)),
    lines: [
      curve(`groups of ${size}`, "first", (rate) => formulas.weight(rate, size, alpha)),
      curve("limit of large groups", "ghost", (rate) => formulas.limitWeight(rate, alpha)),
    ],
  });
  charts.lines(byId("group-silent-chart"), {
    title: "Chance that the group is silent, and its expected σ̂",
    x: "solve rate p",
    y: "chance, σ̂",
    at: p,
    high: 1.02,
    lines: [
      curve("silent", "second", (rate) => formulas.silentChance(rate, size)),
      curve("expected σ̂", "first", (rate) => formulas.expectedSigma(rate, size)),
    ],
  });
};

const drawClip = () => {
  const p = 10 ** slider("clip-p");
  const [low, high] = [slider("clip-low"), slider("clip-high")];
  show("clip-old", p);
  show("clip-floor", p * (1 - low));
  show("clip-ceiling", p * (1 + high));
  show("clip-gain", p * high);
  byId("clip-says").textContent =
    p * (1 + high) > 1
      ? "The upper bound lies beyond 1: for a token this likely the clip never acts."
      : "Beyond the bounds the token gets no gradient from an advantage of that sign.";
  const rates = range(0.005, 0.995, 100);
  charts.lines(byId("clip-chart"), {
    title: "Probabilities a token may reach before the clip stops it",
    x: "probability when it was sampled",
    y: "probability now",
    at: p,
    high: 1.3,
    lines: [
      { name: "upper bound", kind: "first", points: rates.map((rate) => [rate, rate * (1 + high)]) },
      { name: "unchanged", kind: "ghost", points: rates.map((rate) => [rate, rate]) },
      { name: "lower bound", kind: "second", points: rates.map((rate) => [rate, rate * (1 - low)]) },
    ],
  });
};

const drawPair = () => {
  const [beta, margin, alpha] = [slider("pair-beta"), slider("pair-margin"), slider("pair-alpha")];
  show("pair-dpo", formulas.dpoCoefficient(beta, margin));
  show("pair-grpo", formulas.pairCoefficient(alpha));
  show("pair-ratio", formulas.dpoCoefficient(beta, margin) / formulas.dpoCoefficient(beta, 0));
  const margins = range(-40, 40, 161);
  // as shares of their own value at margin 0: learning rates absorb the rest
  charts.lines(byId("pair-chart"), {
    title: "Push on a pair, relative to a margin of 0",
    x: "margin m, nats",
    y: "relative push",
    at: margin,
    lines: [
      { name: "2-GRPO: constant", kind: "first", points: margins.map((m) => [m, 1]) },
      {
        name: "DPO: σ(−βm), shown over its value at 0",
        kind: "second",
        points: margins.map((m) => [m, formulas.dpoCoefficient(beta, m) / formulas.dpoCoefficient(beta, 0)]),
      },
    ],
  });
};

const correct = DATA.group.answers.map((answer) => answer.correct);

const drawRows = () => {
  const lengths = DATA.group.answers.map((answer) => answer.tokens);
  const rewards = correct.map(Number);
  const silent = rewards.every((reward) => reward === rewards[0]);
  const shaped = (row) => formulas.shapedRewards(row, rewards, lengths, DATA.group.budget);
  const head = [
    cell("row", { head: true }),
    ...rewards.map((reward, i) => cell(`${i + 1} ${reward ? "✓" : "✗"}`, { head: true, kind: reward ? "correct" : "wrong" })),
  ];
  const body = (measure) =>
    DATA.rows.map((row) => [
      cell(row.name, { head: true }),
      ...(silent && row.keep === "mixed" ? rewards.map(() => cell("·")) : measure(row)),
    ]);
  const signed = (value) => cell(charts.short(value), { value, kind: value > 0 ? "up" : value < 0 ? "down" : "zero" });
  fillTable("rows-advantages", [head, ...body((row) => formulas.advantages(row, shaped(row)).map(signed))]);
  fillTable("rows-weights", [
    head.map((made) => made.cloneNode(true)),
    ...body((row) => {
      const weights = formulas.tokenWeights(row.aggregate, lengths, DATA.group.budget);
      return formulas.advantages(row, shaped(row)).map((advantage, i) => signed(1000 * advantage * weights[i]));
    }),
  ]);
  byId("rows-says").textContent = silent
    ? "All verdicts are equal: rows with a group baseline give every answer 0, and rows that keep mixed groups only drop the group (·)."
    : `${rewards.filter(Boolean).length} of ${rewards.length} answers are correct; σ̂ = ${charts.short(
        formulas.groupSigma(rewards.filter(Boolean).length, rewards.length),
      )}.`;
};

const drawAnswers = () => {
  byId("answers").replaceChildren(
    ...DATA.group.answers.map((answer, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = correct[i] ? "answer correct" : "answer wrong";
      button.setAttribute("aria-pressed", String(correct[i]));
      button.textContent = `${i + 1}. ${correct[i] ? "✓" : "✗"} ${answer.text} (${answer.tokens} tokens)`;
      button.addEventListener("click", () => {
        correct[i] = !correct[i];
        drawAnswers();
        drawRows();
      });
      return button;
    }),
  );
};

const setSliders = (values) => {
  for (const [id, value] of Object.entries(values)) byId(id).value = value;
};

const labelSliders = () => {
  for (const input of document.querySelectorAll("input[type=range]")) {
    const value = input.id === "clip-p" ? 10 ** Number(input.value) : Number(input.value);
    byId(`${input.id}-is`).textContent = charts.short(value);
  }
};

const draw = () => {
  labelSliders();
  drawLengths();
  drawGroup();
  drawClip();
  drawPair();
  drawRows();
};

for (const input of document.querySelectorAll("input[type=range]")) input.addEventListener("input", draw);
for (const button of document.querySelectorAll("button[data-preset]")) {
  button.addEventListener("click", () => {
    setSliders(JSON.parse(button.dataset.preset));
    draw();
  });
}
byId("prompt").textContent = DATA.group.prompt;
byId("model").textContent = DATA.group.model;
window.addEventListener("resize", draw);
drawAnswers();
draw();
