// Numbers and sentences for people.

const MISSING = "–";
const known = (value) => value !== null && value !== undefined;

// A value in its unit: "54 %", "+3.2 points", "1.2×", "0.108".
function show(value, unit) {
  if (!known(value)) return MISSING;
  if (typeof value !== "number") return String(value);
  if (unit === "share") return percent(value) + " %";
  if (unit === "difference of shares") return (value > 0 ? "+" : "") + percent(value) + " points";
  return plain(value) + (unit === "ratio" ? "×" : "");
}

// Per cent without the sign: whole from 10 to 99, one digit outside, two next to 0 and 100.
function percent(share) {
  const size = Math.abs(100 * share), near = Math.min(size, Math.abs(100 - size)); // 1e-7: rounding of sums
  if (near > 1e-7 && near < 0.005) return size < 50 ? (share < 0 ? "0" : "<0.01") : ">99.99";
  const digits = near <= 1e-7 || size <= 1e-7 ? 0 : near < 0.05 || size < 0.1 ? 2 : size < 10 || size > 99 ? 1 : 0;
  return (100 * share).toFixed(digits).replace("-", "−");
}

// A number without a unit: whole numbers as they are, three significant digits otherwise.
function plain(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (Number.isInteger(value) && size < 1e15) return value.toLocaleString("en-US").replace("-", "−");
  const three = size >= 1000 ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(3)));
  return (size >= 0.001 ? three : value.toExponential(1)).replace("-", "−");
}

// "95 %: 0.097 to 0.122"; empty without an interval.
function range(low, high, unit) {
  return known(low) && known(high) ? `95 %: ${show(low, unit)} to ${show(high, unit)}` : "";
}

// The same in brackets after a value.
function bracketed(low, high, unit) {
  const text = range(low, high, unit);
  return text && ` (${text})`;
}

// The unit where `show` does not print it: "reward", "tokens".
function unitWord(unit) {
  return ["share", "difference of shares", "ratio", "number", ""].includes(unit) ? "" : unit;
}

// A sentence with `code` between backticks.
function prose(text) {
  return text.split("`").map((part, i) => (i % 2 ? make("code", {}, part) : part));
}
