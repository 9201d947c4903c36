// Tables. Where a card is too narrow for its columns, the style sheet shows each row as a list of "column: value".

const NUMERIC = /^([–−+<>]?[\d.,]*( %| points|×)?|[<>\d.,−]+( %)? to [<>\d.,−]+( %)?)$/;

// Whether a text needs room, and may be broken within a word.
function isLong(text) { return text.length > 30 || text.split(/\s/).some((word) => word.length > 16); }

function tableNode(columns, rows) {
  const numeric = columns.map((_, j) => rows.length > 0 && rows.every((row) => !known(row[j]) || typeof row[j] === "number" || NUMERIC.test(String(row[j]))));
  const cell = (value, j) => {
    const text = typeof value === "number" ? plain(value) : known(value) ? String(value) : MISSING;
    const kind = numeric[j] ? "num" : isLong(text) ? "text" : null;
    return make("td", { class: kind, "data-column": columns[j], dir: numeric[j] ? null : "auto" }, make("span", {}, text));
  };
  const head = columns.map((name, j) => make("th", { class: [numeric[j] ? "num" : "", isLong(name) ? "text" : ""].join(" ").trim() || null, scope: "col" }, name));
  return make("div", { class: "scroll" }, make("table", { class: "columns-" + Math.min(columns.length, 9) },
    make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows.map((row) => make("tr", {}, row.map(cell))))));
}
