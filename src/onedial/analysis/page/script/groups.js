// Sample groups to read: a list with filters, and the group that is open.

const reader = { kind: "all", words: "", current: null };
const MARKS_SHOWN = 32; // marks of answers in the list; beyond that, how many more there are
const MARKS = { right: "●", wrong: "○", other: "◌" };

function kindName(kind) { return DATA.kinds[kind] || kind; }

// Opens the first group of a prompt.
function readPrompt(key) {
  reader.kind = "all";
  reader.words = "";
  reader.current = DATA.groups.find((group) => group.prompt_id === key);
  paintReader();
  document.getElementById("groups").scrollIntoView({ behavior: "smooth" });
}

function fits(group) {
  const text = (group.prompt + " " + group.prompt_id).toLowerCase();
  return (reader.kind === "all" || group.kind === reader.kind) && text.includes(reader.words.toLowerCase());
}

function paintReader() {
  const kept = DATA.groups.filter(fits);
  if (!kept.includes(reader.current)) reader.current = kept.find((group) => group.kind === "mixed") || kept[0] || null;
  document.querySelectorAll("[data-filter]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.filter === reader.kind)));
  document.getElementById("search").value = reader.words;
  document.getElementById("group-list").replaceChildren(...kept.map(listEntry));
  document.getElementById("group").replaceChildren(...(reader.current ? groupNode(reader.current) : [make("p", { class: "soft" }, "No group fits the filter.")]));
}

function listEntry(group) {
  const open = () => { reader.current = group; paintReader(); };
  return make("li", {}, make("button", { type: "button", "aria-current": String(group === reader.current), onclick: open },
    make("span", { class: "chip c-" + group.kind }, kindName(group.kind)), " ", marks(group),
    make("span", { class: "snip isolate", dir: "auto" }, group.prompt.slice(0, 120) || group.prompt_id)));
}

// One mark per answer of the group, those not shown in full included.
function marks(group) {
  const shown = group.marks.slice(0, MARKS_SHOWN), more = group.size - shown.length;
  return make("span", { class: "dots", title: "one mark per answer: ● correct, ○ wrong, ◌ other" },
    shown.map((role) => make("span", { class: role }, MARKS[role])), more > 0 ? make("span", { class: "soft" }, ` +${more} more`) : null);
}

function groupNode(group) {
  const facts = [known(group.iteration) ? `iteration ${plain(group.iteration)}` : "", group.source, group.level && `level ${group.level}`,
    known(group.answer) ? `reference answer: ${group.answer}` : "", `${group.size} answers`].filter(Boolean);
  const biggest = Math.max(...group.rollouts.map((r) => Math.abs(r.advantage || 0)), 1e-9);
  return [
    make("div", {}, make("span", { class: "chip c-" + group.kind }, kindName(group.kind)), " ", make("span", { class: "soft small isolate" }, facts.join(" · "))),
    make("pre", { class: "prompt", dir: "auto" }, group.prompt || "(the log holds no prompt text)"),
    group.hidden ? make("p", { class: "soft small" }, `${group.rollouts.length} of ${group.size} answers are shown: the first ones, with one of the lowest and one of the highest reward.`) : "",
    ...group.rollouts.map((r) => rolloutNode(r, biggest))];
}

function rolloutNode(r, biggest) {
  const facts = [known(r.reward) ? `reward ${plain(r.reward)}` : "", known(r.shaped) && r.shaped !== r.reward ? `shaped reward ${plain(r.shaped)}` : "",
    known(r.parsed) ? `answer: ${r.parsed}` : "", known(r.length) ? `${plain(r.length)} ${DATA.length_unit}` : "", r.cut ? "cut at the length limit" : "", r.status].filter(Boolean);
  const meta = make("div", { class: "meta" }, make("b", {}, r.outcome), facts.map((fact) => make("span", { class: "isolate" }, fact)));
  if (known(r.advantage)) meta.append(advantageBar(r.advantage, biggest));
  return make("div", { class: "rollout c-" + r.role }, meta, make("pre", { dir: "auto" }, known(r.text) ? r.text : "(the log holds no text)"));
}

function advantageBar(advantage, biggest) {
  const width = (44 * Math.abs(advantage)) / biggest, up = advantage >= 0;
  const bar = draw("svg", { width: 90, height: 10, "aria-hidden": "true" }, draw("line", { class: "axis", x1: 45, x2: 45, y1: 0, y2: 10 }),
    draw("rect", { class: "fill c-" + (up ? "right" : "wrong"), x: up ? 45 : 45 - width, width, y: 2, height: 6 }));
  return make("span", {}, `advantage ${advantage > 0 ? "+" : ""}${plain(advantage)} `, bar);
}

function readerNode() {
  const kinds = ["all", ...Object.keys(DATA.kinds).filter((kind) => DATA.groups.some((group) => group.kind === kind))];
  const count = (kind) => DATA.groups.filter((group) => kind === "all" || group.kind === kind).length;
  const button = (kind) => make("button", { type: "button", "data-filter": kind, onclick: () => { reader.kind = kind; paintReader(); } }, `${kindName(kind)} (${count(kind)})`);
  const search = make("input", { type: "search", id: "search", placeholder: "find in prompts", "aria-label": "find in prompts",
    oninput: (event) => { reader.words = event.target.value; paintReader(); event.target.focus(); } });
  return section("groups", "Sample groups", make("p", { class: "soft" }, DATA.groups_note), make("div", { class: "filters" }, kinds.map(button), search),
    make("div", { class: "reader" }, make("ul", { class: "groups", id: "group-list" }), make("div", { class: "card", id: "group" })));
}
