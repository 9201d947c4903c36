// Findings: a card each, with the figure and its interval first, then the sentence, what to do, plots and tables.

function quiet(finding) { return !finding.what_to_do || finding.what_to_do.startsWith("Nothing"); }

function findingNode(finding) {
  const wide = finding.plots.length > 1 || finding.plots.some((plot) => plot.kind === "dial") || finding.tables.some((table) => table.columns.length > 6);
  return make("article", { class: "card" + (wide ? " wide" : ""), id: "f-" + finding.name },
    make("div", { class: "words" }, make("h3", {}, finding.title), figure(finding), make("p", {}, prose(finding.headline)),
      quiet(finding) ? null : make("p", { class: "todo" }, make("b", {}, "Do: "), prose(finding.what_to_do)),
      finding.elsewhere ? make("p", { class: "small" }, make("a", { href: "#curves" }, "drawn under Curves of the run")) : null),
    finding.plots.length ? make("div", { class: "plots" }, finding.plots.map(plotNode)) : null,
    make("div", { class: "more" }, finding.tables.filter((table) => table.rows.length).map(findingTable), definition(finding)));
}

// Value, interval, unit: "0.108 (95 %: 0.097 to 0.122) reward".
function figure(finding) {
  const [low, high] = finding.interval || [null, null];
  const rest = [bracketed(low, high, finding.unit).trim(), unitWord(finding.unit)].filter(Boolean).join(" ");
  return make("div", { class: "figure" }, show(finding.value, finding.unit), rest ? make("small", {}, " " + rest) : null);
}

function findingTable(table) {
  const small = table.rows.length <= 7 && table.columns.length <= 5 && table.rows.every((row) => row.every((value) => String(value).length < 48));
  const rows = table.rows.map((row) => row.map((value, j) => (table.units[j] && typeof value === "number" ? show(value, table.units[j]) : value)));
  return make("details", { open: small }, make("summary", {}, `${table.title} (${table.rows.length})`), tableNode(table.columns, rows));
}

function definition(finding) {
  const entries = [["Definition", finding.definition], ["Why it matters", finding.why], ["Interval", finding.method]].filter(([, text]) => text);
  return make("details", {}, make("summary", {}, "How it is defined, and why it matters"),
    make("dl", {}, entries.map(([name, text]) => [make("dt", {}, name), make("dd", {}, prose(text))])));
}

// Findings without anything to do and without a plot, in one card.
function calmNode(findings) {
  const entries = findings.map((f) => {
    const [low, high] = f.interval || [null, null];
    return [make("dt", {}, f.title), make("dd", {}, prose(f.headline), make("span", { class: "small" }, bracketed(low, high, f.unit)))];
  });
  return make("div", { class: "card wide", id: "calm" }, make("h3", {}, "Checked, nothing to do"), make("dl", {}, entries));
}

// What is not shown, one paragraph per reason.
function withheldNode(findings) {
  const reasons = [...new Set(findings.map((f) => f.withheld))];
  const titles = (reason) => findings.filter((f) => f.withheld === reason).map((f) => f.title).join(" · ");
  return make("div", { class: "card" }, make("dl", {}, reasons.map((reason) => [make("dt", {}, titles(reason)), make("dd", {}, prose(reason))])));
}
