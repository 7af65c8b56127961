// The kinds of points on the map, each with a colour and a form of its own, so that neither has to be told apart alone.

const SHAPES = [
  "M1 0A1 1 0 1 1-1 0A1 1 0 1 1 1 0Z",
  "M-.9-.9H.9V.9H-.9Z",
  "M0-1.15L1.1.85H-1.1Z",
  "M0-1.25L1.25 0L0 1.25L-1.25 0Z",
  "M0 1.15L1.1-.85H-1.1Z",
  "M-.4-1.2H.4V-.4H1.2V.4H.4V1.2H-.4V.4H-1.2V-.4H-.4Z",
];
const CROSS = "M-1.1-.65L-.65-1.1L0-.45L.65-1.1L1.1-.65L.45 0L1.1.65L.65 1.1L0 .45L-.65 1.1L-1.1.65L-.45 0Z";
const DOT = "M.6 0A.6 .6 0 1 1-.6 0A.6 .6 0 1 1 .6 0Z";
const BY_VERDICT = [
  ["finding", "slot-0", SHAPES[0]],
  ["fragment", "slot-1", SHAPES[3]],
  ["anomaly", "slot-4", SHAPES[2]],
  ["steerable", "slot-2", SHAPES[1]],
  ["ordinary", "muted", SHAPES[1]],
  ["broken", "slot-3", CROSS],
  ["unchanged", "faint", DOT],
];

const kind = (label, colour, shape, holds) => ({ label, colour, shape, hollow: false, holds: (row) => row.bank !== "null" && holds(row) });

// The strongest modes have a kind each, the others one together.
function kindsByMode(points) {
  const counts = new Map();
  for (const row of points) if (row.bank !== "null" && row.mode !== null) counts.set(row.mode, (counts.get(row.mode) ?? 0) + 1);
  const changed = [...counts.keys()].filter((mode) => modes[mode].verdict !== "unchanged");
  changed.sort((first, second) => ORDER.indexOf(modes[first].verdict) - ORDER.indexOf(modes[second].verdict) || counts.get(second) - counts.get(first));
  const shown = changed.slice(0, SHAPES.length);
  return [
    ...shown.map((mode, at) => kind([`${mode} `, inline(preview(modes[mode].label))], `slot-${at}`, SHAPES[at], (row) => row.mode === mode)),
    kind(["other modes"], "muted", CROSS, (row) => row.mode !== null && !shown.includes(row.mode) && row.verdict !== "unchanged"),
    kind(["unchanged"], "faint", DOT, (row) => row.verdict === "unchanged"),
  ];
}

// Every point gets its kind; those that have points come back, the random directions last.
function kindsOf(points, by) {
  const kinds = by === "mode" ? kindsByMode(points) : BY_VERDICT.map(([verdict, colour, shape]) => kind([verdict], colour, shape, (row) => row.verdict === verdict));
  kinds.push(kind(["not heard"], "faint", DOT, () => true));
  kinds.push({ label: ["random directions: the null"], colour: "faint", shape: SHAPES[0], hollow: true, holds: (row) => row.bank === "null" });
  for (const row of points) row.kind = kinds.find((one) => one.holds(row));
  const met = new Set(points.map((row) => row.kind));
  return kinds.filter((one) => met.has(one));
}

function iconOf(one) {
  const look = one.hollow ? { fill: "none", stroke: "currentColor", "stroke-width": 0.45 } : { fill: "currentColor" };
  return drawn("svg", { class: one.colour, viewBox: "-1.6 -1.6 3.2 3.2", width: 14, height: 14, "aria-hidden": "true" }, drawn("path", { d: one.shape, ...look }));
}

// A picture of one point; full ones have a rim of the ground's colour, which keeps neighbours apart.
function spriteOf(one, size, ratio, ground) {
  const made = document.createElement("canvas");
  made.width = made.height = Math.ceil((2.6 * size + 2) * ratio);
  const pen = made.getContext("2d");
  pen.setTransform(size * ratio, 0, 0, size * ratio, made.width / 2, made.height / 2);
  const path = new Path2D(one.shape);
  const colour = getComputedStyle(one.icon).color;
  pen.fillStyle = colour;
  pen.strokeStyle = one.hollow ? colour : ground;
  pen.lineWidth = one.hollow ? 0.35 : 0.3;
  if (!one.hollow) pen.fill(path);
  pen.stroke(path);
  return made;
}
