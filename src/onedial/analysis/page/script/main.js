// Builds the page from DATA: header, facts, notes, then the sections.

function section(id, title, ...children) {
  return make("section", { id }, make("h2", {}, title), ...children);
}

// The switch between light and dark; the choice is remembered where a file may remember something.
function themeButton() {
  const dark = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const button = make("button", { type: "button", id: "theme", onclick: () => choose(root.dataset.theme === "dark" ? "light" : "dark", true) });
  function choose(name, keep) {
    root.dataset.theme = name;
    button.textContent = name === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `switch to ${name === "dark" ? "light" : "dark"} colors`);
    // a file opened from disk may have no storage; the choice then lasts as long as the page
    try { if (keep) localStorage.setItem("onedial-theme", name); } catch (error) { void error; }
  }
  let saved = null;
  try { saved = localStorage.getItem("onedial-theme"); } catch (error) { void error; }
  choose(saved || (dark.matches ? "dark" : "light"), false);
  dark.addEventListener("change", (event) => choose(event.matches ? "dark" : "light", false));
  return button;
}

function header() {
  return make("header", {}, make("div", {}, make("h1", { class: "isolate", dir: "auto" }, DATA.title), make("div", { class: "soft isolate" }, DATA.subtitle)),
    make("div", { class: "tools" }, themeButton(), make("button", { type: "button", onclick: () => print() }, "Print")));
}

function factNode(fact) {
  return make("div", { class: "fact" }, make("span", {}, fact.label), make("b", {}, show(fact.value, fact.unit)), make("span", {}, fact.note));
}

function notesNode() {
  return make("div", { class: "notice" }, make("b", {}, DATA.headings.notes || "What this log can and cannot show"), make("ul", {}, DATA.notes.map((note) => make("li", { class: "isolate" }, prose(note)))));
}

function cards(plots) {
  return make("div", { class: "grid" }, plots.map((plot) => make("div", { class: "card" }, plotNode(plot))));
}

function smoothingNote() {
  const smoothed = DATA.curves.some((plot) => plot.extra.smooth);
  return smoothed ? make("p", { class: "soft small intro" }, "Points are iterations; lines are smoothed over neighboring iterations. Bands are 95 % intervals.") : null;
}

function sections() {
  const shown = DATA.findings.filter((f) => !f.withheld), withheld = DATA.findings.filter((f) => f.withheld);
  const calm = shown.filter((f) => quiet(f) && !f.plots.length && !f.elsewhere), loud = shown.filter((f) => !calm.includes(f));
  return [
    DATA.heldout.length && section("heldout", "Held-out evaluation", cards(DATA.heldout)),
    shown.length && section("findings", "Findings", make("div", { class: "grid" }, loud.map(findingNode), calm.length ? calmNode(calm) : null)),
    DATA.curves.length && section("curves", DATA.headings.curves || "Curves of the run", smoothingNote(), cards(DATA.curves)),
    DATA.groups.length && readerNode(),
    withheld.length && section("withheld", "Not shown, and why", withheldNode(withheld)),
  ].filter(Boolean);
}

const CARD_ROW = 4, CARD_GAP = 16; // pixels, as in the style sheet
const UNEVEN = 240; // pixels by which the two columns may differ

// Cards stand in two columns, each directly under the one above it: a card spans as many thin rows as it is high.
function stackCards() {
  document.querySelectorAll(".grid > .card").forEach((card) => {
    const rows = Math.ceil((card.getBoundingClientRect().height + CARD_GAP) / CARD_ROW);
    card.style.gridRowEnd = "span " + rows;
  });
}


// Heights of two columns when each card goes under the shorter one.
function columnHeights(heights) {
  const columns = [0, 0];
  for (const height of heights) columns[columns[0] <= columns[1] ? 0 : 1] += height + CARD_GAP;
  return columns;
}

// Where the two columns of findings would end far apart, one of the last cards takes both columns, with its text on the
// left and its plot on the right.
function evenOut() {
  const cards = [...document.querySelectorAll("#findings .grid > .card:not(.wide)")];
  cards.forEach((card) => card.classList.remove("split"));
  if (innerWidth <= 860 || !cards.length) return;
  const heights = cards.map((card) => card.getBoundingClientRect().height);
  const gap = (without) => { const [a, b] = columnHeights(heights.filter((_, i) => i !== without)); return Math.abs(a - b); };
  const able = cards.map((_, i) => i).filter((i) => i >= cards.length - 4 && cards[i].querySelector(".plots"));
  const best = able.reduce((kept, i) => (gap(i) < gap(kept) - UNEVEN / 2 ? i : kept), -1);
  if (gap(-1) > UNEVEN && best >= 0 && gap(best) < gap(-1) - UNEVEN / 2) cards[best].classList.add("split");
}

// Draws every plot again, for the width it has or for that of a column of paper.
function repaintAll() { redraws.forEach((redraw) => redraw()); }

function build() {
  const parts = sections();
  const links = parts.map((part) => make("a", { href: "#" + part.id }, part.querySelector("h2").textContent));
  const main = make("main", {}, make("div", { class: "facts" }, DATA.facts.map(factNode)), DATA.notes.length ? notesNode() : null, parts);
  document.body.append(header(), make("nav", { "aria-label": "sections" }, make("div", {}, links)), main, make("footer", {}, DATA.footer), tip);
  if (DATA.groups.length) paintReader();
  arrange();
}

// Draws the plots and places the cards for the present width.
function arrange() {
  document.querySelectorAll(".card.split").forEach((card) => card.classList.remove("split"));
  repaintAll();
  evenOut();
  repaintAll();
  stackCards();
}

build();
// a card that grows (a table opened, prompts listed) moves the cards below it
const growth = new ResizeObserver(stackCards);
document.querySelectorAll(".grid > .card").forEach((card) => growth.observe(card));
addEventListener("beforeprint", () => { onPaper = true; repaintAll(); });
addEventListener("afterprint", () => { onPaper = false; repaintAll(); });
let waiting = 0, knownWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === knownWidth) return;
  knownWidth = innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(arrange, 120);
});
document.documentElement.dataset.ready = "yes";
