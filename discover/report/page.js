// What the reader does: chips, routes to vectors, keys, and the colours.

const TITLE = document.title;
const ROUTE = /^#(vector|random)-(\d+)$/;
const points = vectors.filter((row) => row.x !== null);
const map = points.length ? vectorMap(points) : null;
const left = { hash: "", at: 0 };
let open = null;

function showVectors(rows, name) {
  const wanted = new Set(rows);
  showOnly(name, (row) => wanted.has(row.of));
  map?.show(rows);
}

for (const chip of document.querySelectorAll("button[data-mode]")) chip.addEventListener("click", () => showOnly(`mode ${chip.dataset.mode}`, (row) => row.mode === Number(chip.dataset.mode)));
for (const chip of document.querySelectorAll("button[data-vectors]")) {
  const mode = Number(chip.dataset.vectors);
  chip.addEventListener("click", () => showVectors(modes[mode].vectors.map((vector) => vectorAt.get(`learned ${vector}`)), `vectors of mode ${mode}`));
}

place("controls").addEventListener("reset", () => map?.show([]));
place("only").addEventListener("click", () => {
  narrow("", null);
  place("search").focus();
});

// The one before and the one after in the table as it is sorted and filtered, else by number.
function neighbours(row) {
  const listed = [...new Set(completionTable.rows().map((one) => one.of).filter(Boolean))];
  const order = listed.includes(row) ? listed : vectors;
  const at = order.indexOf(row);
  return [order[at - 1], order[at + 1]];
}

function route() {
  const found = ROUTE.exec(location.hash);
  const row = found ? vectorAt.get(`${found[1] === "random" ? "null" : "learned"} ${Number(found[2])}`) : undefined;
  if (row && !open) left.at = window.scrollY;
  const returned = !row && open;
  open = row ?? null;
  place("whole").hidden = Boolean(row);
  place("one").hidden = !row;
  document.title = row ? `${nameOf(row)} – ${TITLE}` : TITLE;
  if (row) {
    place("one").replaceChildren(...vectorPage(row, ...neighbours(row)));
    window.scrollTo({ top: 0, behavior: "instant" });
    place("one-title").focus({ preventScroll: true });
  } else if (returned) {
    place("one").replaceChildren();
    map?.again();
    if (location.hash === left.hash) window.scrollTo({ top: left.at, behavior: "instant" });
    else document.getElementById(location.hash.slice(1))?.scrollIntoView({ behavior: "instant" });
  }
  if (!row) left.hash = location.hash;
}

history.scrollRestoration = "manual";
window.addEventListener("hashchange", route);
document.addEventListener("keydown", (event) => {
  if (!open || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey || event.target.closest("input, select, textarea, canvas")) return;
  const [before, after] = neighbours(open);
  const next = { ArrowLeft: before, ArrowRight: after }[event.key];
  if (next) location.hash = linkOf(next);
  if (event.key === "Escape") location.hash = "#completions";
});

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const root = document.documentElement;
const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
function coloured() {
  place("theme").textContent = isDark() ? "Light" : "Dark";
  place("theme").setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
}
function recoloured() {
  coloured();
  map?.again();
}

place("theme").hidden = false;
place("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  recoloured();
});
dark.addEventListener("change", recoloured);

for (const script of new Set(completions.map((row) => row.script ?? "none"))) place("script").append(element("option", {}, script));
filtered();
coloured();
route();
