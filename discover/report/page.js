"use strict";
// Completions are hostile: text enters the page through text nodes only, never as markup.

const STEP = 200;
const PREVIEW = 240;
const PREVIEW_LINES = 6;
const MARK = "\u0001";

const data = JSON.parse(document.getElementById("data").textContent);
const place = (id) => document.getElementById(id);

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function button(text, attributes, act) {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", act);
  return made;
}

function rowsOf(columns) {
  const names = Object.keys(columns);
  return columns[names[0]].map((_, index) => {
    const row = { index };
    for (const name of names) row[name] = columns[name][index];
    return row;
  });
}

const modes = rowsOf(data.modes);
const completions = rowsOf(data.completions);
for (const row of completions) {
  row.verdict = row.mode === null ? null : modes[row.mode].verdict;
  row.haystack = row.text.replaceAll(MARK, "").toLowerCase();
}

// Names of invisible characters stand between two MARKs: every odd piece is one.
function pieces(text) {
  return text.split(MARK).map((piece, at) => (at % 2 ? element("mark", {}, piece) : piece));
}

// A named character counts as the one that it is.
function lengthOf(text) {
  return pieces(text).reduce((sum, piece) => sum + (typeof piece === "string" ? [...piece].length : 1), 0);
}

function previewEnd(text) {
  let end = Math.min(text.length, PREVIEW);
  const lines = text.slice(0, end).split("\n");
  if (lines.length > PREVIEW_LINES) end = lines.slice(0, PREVIEW_LINES).join("\n").length;
  if (end < text.length && /[\uD800-\uDBFF]/.test(text[end - 1])) end -= 1;
  const open = text.slice(0, end).split(MARK).length % 2 === 0;
  return open ? text.indexOf(MARK, end) + 1 : end;
}

function saidCell(row) {
  const text = element("div", { class: "text", dir: "auto" });
  const cell = element("div", {}, text);
  if (row.opening !== null) cell.prepend(element("p", { class: "signals" }, "first token forced to ", element("bdi", { class: "token" }, ...pieces(row.opening))));
  const end = previewEnd(row.text);
  let whole = end === row.text.length;
  const all = whole ? "" : `all ${lengthOf(row.text).toLocaleString("en")} characters`;
  const fill = () => text.replaceChildren(...(row.text ? pieces(whole ? row.text : row.text.slice(0, end)) : [element("em", {}, "(nothing)")]));
  fill();
  if (!whole) {
    const toggle = button(all, { class: "plain", "aria-expanded": "false" }, () => {
      whole = !whole;
      fill();
      toggle.textContent = whole ? "less" : all;
      toggle.setAttribute("aria-expanded", String(whole));
    });
    cell.append(toggle);
  }
  return cell;
}

function compared(first, second, descending) {
  if (first === second) return 0;
  if (first === null) return 1;
  if (second === null) return -1;
  const order = typeof first === "string" ? first.localeCompare(second, "en") : first - second;
  return descending ? -order : order;
}

// A column is { name, cell(row), value(row), number }; a row without a value sorts last either way.
function table(root, label, columns, step) {
  const state = { rows: [], sort: null, descending: false, shown: step };
  const heads = columns.map((column) => {
    const head = element("th", { scope: "col", role: "columnheader", class: column.number ? "number" : "" });
    head.append(button(column.name, {}, () => {
      state.descending = state.sort === column ? !state.descending : false;
      state.sort = column;
      state.shown = step;
      draw();
    }));
    return head;
  });
  const body = element("tbody", { role: "rowgroup" });
  const head = element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads));
  const count = element("p", { class: "note", "aria-live": "polite" });
  const more = button("show more", { class: "wide" }, () => {
    state.shown += step;
    draw();
  });
  root.append(count, element("table", { class: "rows", role: "table", "aria-label": label }, head, body), more);

  function drawRow(row) {
    return element("tr", { role: "row" }, ...columns.map((column) =>
      element("td", { role: "cell", class: `${column.number ? "number" : ""} ${column.kind ?? ""}`, "data-label": column.name }, column.cell(row))));
  }

  function draw() {
    const rows = [...state.rows];
    if (state.sort) rows.sort((first, second) => compared(state.sort.value(first), state.sort.value(second), state.descending) || first.index - second.index);
    heads.forEach((head, index) => head.setAttribute("aria-sort", columns[index] !== state.sort ? "none" : state.descending ? "descending" : "ascending"));
    body.replaceChildren(...rows.slice(0, state.shown).map(drawRow));
    count.textContent = rows.length > state.shown ? `${state.shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows` : `${rows.length.toLocaleString("en")} row${rows.length === 1 ? "" : "s"}`;
    more.hidden = rows.length <= state.shown;
  }

  return (rows) => {
    state.rows = rows;
    state.shown = step;
    draw();
  };
}

const plainColumn = (name, key, empty) => ({ name, value: (row) => row[key], cell: (row) => (row[key] === null ? empty : String(row[key])) });
const numberColumn = (name, key, digits) => ({ name, number: true, value: (row) => row[key], cell: (row) => (row[key] === null ? "not scored" : row[key].toFixed(digits)) });
const textColumn = (name, key) => ({ name, kind: "wide", value: (row) => row[key], cell: (row) => element("bdi", {}, ...pieces(row[key])) });
const countOf = (share) => (share === null ? null : Number(share.split("/")[0]));
const shareColumn = (name, key) => ({ name, number: true, value: (row) => countOf(row[key]), cell: (row) => row[key] ?? "–" });

function verdictTag(verdict, level) {
  return element("span", { class: `verdict ${verdict}` }, level ? `${level} ${verdict}` : verdict);
}

const modeButton = (index) => button(String(index), { class: "plain", "aria-label": `show mode ${index}` }, () => showOnly("mode", index));

const modeColumns = [
  { name: "mode", value: (row) => row.index, cell: (row) => modeButton(row.index) },
  textColumn("opens with", "label"),
  { name: "verdict", value: (row) => row.verdict, cell: (row) => (row.verdict ? verdictTag(row.verdict, row.level) : "–") },
  shareColumn("vectors", "bank"),
  shareColumn("null", "null"),
  shareColumn("forced", "forced"),
  { name: "adjusted p", number: true, value: (row) => row.p, cell: (row) => (row.p === null ? "–" : row.p < 1e-4 ? row.p.toExponential(1) : String(Number(row.p.toPrecision(2)))) },
  { name: "completions", number: true, value: (row) => row.members, cell: (row) => String(row.members) },
  textColumn("terms", "terms"),
];

function speaker(row) {
  if (row.vector === null) return "unsteered";
  return { learned: "", null: "random ", forced: "token ", followed: "token " }[row.bank] + row.vector;
}

const completionColumns = [
  { name: "vector", value: (row) => row.vector, cell: speaker },
  { name: "mode", value: (row) => row.mode, cell: (row) => (row.mode === null ? "–" : modeButton(row.mode)) },
  plainColumn("verdict", "verdict", "–"),
  plainColumn("state", "state", "–"),
  { name: "text", kind: "wide", value: (row) => row.haystack, cell: saidCell },
  numberColumn("surprise", "surprise", 2),
  numberColumn("repetition", "repetition", 2),
  numberColumn("distance", "distance", 2),
];
if (data.prompts > 1) completionColumns.splice(1, 0, { name: "prompt", value: (row) => row.prompt, cell: (row) => String(row.prompt) });

const showModes = table(place("mode-table"), "Modes", modeColumns, 25);
const showCompletions = table(place("completion-table"), "Vectors and completions", completionColumns, STEP);
let only = null;

function filtered() {
  const searched = place("search").value.toLowerCase();
  const chosen = ["bank", "verdict", "state"].map((key) => [key, place(key).value]).filter(([, value]) => value);
  if (only) chosen.push(only);
  showCompletions(completions.filter((row) => chosen.every(([key, value]) => row[key] === value) && row.haystack.includes(searched)));
  place("only").hidden = !only;
  if (only) place("only").textContent = `only ${only[0]} ${only[1]} ×`;
}

function showOnly(key, value) {
  place("controls").reset();
  place("bank").value = key === "vector" ? "learned" : "";
  only = [key, value];
  filtered();
  place("completions-title").focus({ preventScroll: true });
  place("completions").scrollIntoView();
}

place("only").addEventListener("click", () => {
  only = null;
  filtered();
  place("search").focus();
});
place("controls").addEventListener("input", filtered);
place("controls").addEventListener("submit", (event) => event.preventDefault());
for (const key of ["vector", "mode"]) {
  for (const chip of document.querySelectorAll(`button[data-${key}]`)) chip.addEventListener("click", () => showOnly(key, Number(chip.dataset[key])));
}

const ORDER = ["finding", "fragment", "steerable", "broken", "unchanged", null];
showModes([...modes].sort((first, second) => ORDER.indexOf(first.verdict) - ORDER.indexOf(second.verdict) || first.index - second.index));
filtered();
