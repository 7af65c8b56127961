// Tables that sort, filter and grow; the map and the pages of vectors follow what stands in the second.

const STEP = 200;
const collator = new Intl.Collator("en");

function ordered(first, second, descending) {
  if (first === second) return 0;
  if (first === null) return 1;
  if (second === null) return -1;
  const order = typeof first === "string" ? collator.compare(first, second) : first - second;
  return descending ? -order : order;
}

// A column is { name, cell(row), value(row), number, hidden }; a row without a value sorts last either way.
function table(root, label, columns, step) {
  const state = { rows: [], sorted: [], sort: null, descending: false, shown: step };
  const heads = columns.map((column) => {
    const head = element("th", { scope: "col", role: "columnheader", class: column.number ? "number" : "" });
    head.append(button(name, column.about ? { title: column.about } : {}, () => {
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
    return element("tr", { role: "row" }, ...columns.filter((column) => !column.hidden).map((column) =>
      element("td", { role: "cell", class: `${column.number ? "number" : ""} ${column.kind ?? ""}`, "data-label": column.name }, column.cell(row))));
  }

  function draw() {
    const rows = [...state.rows];
    if (state.sort) rows.sort((first, second) => ordered(state.sort.value(first), state.sort.value(second), state.descending) || first.index - second.index);
    state.sorted = rows;
    heads.forEach((head, index) => {
      head.hidden = Boolean(columns[index].hidden);
      head.firstChild.firstChild.textContent = columns[index].name;
      head.setAttribute("aria-sort", columns[index] !== state.sort ? "none" : state.descending ? "descending" : "ascending");
    });
    body.replaceChildren(...rows.slice(0, state.shown).map(drawRow));
    count.textContent = rows.length > state.shown ? `${grouped(state.shown)} of ${grouped(rows.length)} rows` : counted(rows.length, "row");
    more.hidden = rows.length <= state.shown;
  }

  return {
    rows: () => state.sorted,
    show(rows) {
      state.rows = rows;
      state.shown = step;
      draw();
    },
  };
}

const plainColumn = (name, key, empty) => ({ name, value: (row) => row[key], cell: (row) => (row[key] === null ? empty : String(row[key])) });
const signalColumn = (one) => ({ name: one.name, about: one.about, number: true, value: (row) => one.value(row) ?? null, cell: (row) => shownNumber(one.value(row), one.digits) });
const textColumn = (name, key) => ({ name, kind: "wide", value: (row) => row[key], cell: (row) => inline(row[key]) });
const countOf = (share) => (share === null ? null : Number(share.split("/")[0]));
const shareColumn = (name, key) => ({ name, number: true, value: (row) => countOf(row[key]), cell: (row) => row[key] ?? "–" });

function verdictTag(verdict, level) {
  return element("span", { class: `verdict ${verdict}` }, level ? `${level} ${verdict}` : verdict);
}

const modeButton = (index) => button(String(index), { class: "plain", "aria-label": `show mode ${index}` }, () => showOnly(`mode ${index}`, (row) => row.mode === index));

function modeLabel(row) {
  const named = row.named === null ? [] : [element("p", { class: "signals" }, "a language model: ", inline(row.named))];
  return element("div", {}, inline(row.label), ...named);
}

const modeColumns = [
  { name: "mode", value: (row) => row.index, cell: (row) => modeButton(row.index) },
  { ...textColumn("opens with", "label"), cell: modeLabel },
  { name: "verdict", value: (row) => row.verdict, cell: (row) => (row.verdict ? verdictTag(row.verdict, row.level) : "–") },
  shareColumn("vectors", "bank"),
  shareColumn("null", "null"),
  shareColumn("forced", "forced"),
  { name: "adjusted p", number: true, value: (row) => row.p, cell: (row) => (row.p === null ? "–" : row.p < 1e-4 ? row.p.toExponential(1) : String(Number(row.p.toPrecision(2)))) },
  { name: "completions", number: true, value: (row) => row.members, cell: (row) => grouped(row.members) },
  textColumn("terms", "terms"),
];

function speaker(row) {
  if (row.vector === null) return "unsteered";
  const drawnAs = row.sample ? ` (draw ${row.sample})` : "";
  if (row.of) return linked(row.of, `${row.bank === "null" ? "random " : ""}${row.vector}${drawnAs}`);
  return `token ${row.vector}${drawnAs}`;
}

function saidCell(row) {
  const cell = collapsed(row.text, "text");
  if (row.opening !== null) cell.prepend(element("p", { class: "signals" }, "unsteered, from ", token(row.opening)));
  return cell;
}

const chosen = { name: "", number: true, hidden: true };
const completionColumns = [
  { name: "vector", value: (row) => row.vector, cell: speaker },
  { name: "mode", value: (row) => row.mode, cell: (row) => (row.mode === null ? "–" : modeButton(row.mode)) },
  plainColumn("verdict", "verdict", "–"),
  plainColumn("state", "state", "–"),
  { name: "text", kind: "wide", value: (row) => row.text, cell: saidCell },
  ...["surprise", "repetition", "distance"].map((name) => signalColumn(said.find((one) => one.key === name))),
  chosen,
];
if (data.prompts.length > 1) completionColumns.splice(1, 0, { name: "prompt", value: (row) => row.prompt, cell: (row) => String(row.prompt) });

const modeTable = table(place("mode-table"), "Modes", modeColumns, 25);
const completionTable = table(place("completion-table"), "Vectors and completions", completionColumns, STEP);
modeTable.show([...modes].sort((first, second) => ORDER.indexOf(first.verdict) - ORDER.indexOf(second.verdict) || first.index - second.index));

const STANDING = completionColumns.length - 1;
for (const [at, one] of signals.entries()) place("signal").append(element("option", { value: at }, one.name));
let only = null;

function bound(id) {
  const value = place(id).value.trim();
  return value === "" ? null : Number(value);
}

function filtered() {
  const searched = place("search").value.toLowerCase();
  const choices = ["bank", "verdict", "state", "script"].map((key) => [key, place(key).value]).filter(([, value]) => value);
  const one = signals[place("signal").value];
  const [least, most] = [bound("least"), bound("most")];
  const standing = one && completionColumns.slice(0, STANDING).some((column) => column.name === one.name);
  Object.assign(chosen, one ? signalColumn(one) : {}, { hidden: !one || standing });
  for (const id of ["least", "most"]) place(id).disabled = !one;
  const within = (row) => {
    const value = one.value(row) ?? null;
    return value !== null && (least === null || value >= least) && (most === null || value <= most);
  };
  completionTable.show(completions.filter((row) =>
    (!only || only.holds(row)) &&
    choices.every(([key, value]) => (row[key] ?? "none") === value) &&
    (!one || (least === null && most === null) || within(row)) &&
    haystack(row.textAt).includes(searched)));
  place("only").hidden = !only;
  if (only) place("only").textContent = `only ${only.name} ×`;
}

function narrow(name, holds) {
  place("controls").reset();
  if (holds) place("bank").value = "";
  only = holds && { name, holds };
  filtered();
}

function showOnly(name, holds) {
  narrow(name, holds);
  location.hash = "#completions";
  place("completions-title").focus({ preventScroll: true });
  place("completions").scrollIntoView();
}

place("controls").addEventListener("input", filtered);
place("controls").addEventListener("submit", (event) => event.preventDefault());
