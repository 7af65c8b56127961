// The page of one vector.

// With less in common, marks would stand everywhere.
const LEAST_SHARED = 0.2;

const ranked = (values, share) => values[Math.min(values.length - 1, Math.floor(share * values.length))];

// What random vectors have, sorted; what the page tells of them is their middle and where nine in ten lie.
const ofNull = new Map();
function nullOf(one) {
  if (!ofNull.has(one)) {
    const values = vectors.filter((row) => row.bank === "null").map((row) => one.own(row) ?? null).filter((value) => value !== null);
    ofNull.set(one, values.sort((first, second) => first - second));
  }
  return ofNull.get(one);
}

function strip(value, random, ends) {
  const at = (number) => percent((number - ends[0]) / (ends[1] - ends[0] || 1));
  const made = drawn("svg", { "aria-hidden": "true", height: 9 }, drawn("line", { class: "axis", x1: 0, x2: "100%", y1: 4.5, y2: 4.5 }));
  if (random.length) made.append(drawn("line", { class: "spread", x1: at(ranked(random, 0.05)), x2: at(ranked(random, 0.95)), y1: 4.5, y2: 4.5 }));
  if (value !== null) made.append(drawn("circle", { cx: at(value), cy: 4.5, r: 3.5 }));
  return made;
}

function signalRow(one, row) {
  const value = one.own(row) ?? null;
  const random = nullOf(one);
  const every = vectors.map((other) => one.own(other) ?? null).filter((each) => each !== null);
  const ends = every.reduce(([low, high], each) => [Math.min(low, each), Math.max(high, each)], [Infinity, -Infinity]);
  const told = random.length ? `${shownNumber(ranked(random, 0.5), one.digits)} (${shownNumber(ranked(random, 0.05), one.digits)} to ${shownNumber(ranked(random, 0.95), one.digits)})` : "–";
  const name = one.direction === undefined ? [one.name] : ["likeness to ", inline(one.direction)];
  return [[...name, element("span", { class: "note" }, ` ${one.about}`)], [shownNumber(value, one.digits)], [strip(value, random, ends)], [told]];
}

function signalBlock(row) {
  const shown = glanced.filter((one) => (one.own(row) ?? null) !== null);
  if (!shown.length) return [];
  const made = facing(["signal", "this vector", "among all", "random vectors: middle (9 in 10)"], shown.map((one) => signalRow(one, row)));
  made.classList.add("bank", "signs");
  return [block("Before it speaks", "What it does to the next tokens and to the residual stream. The bar is where nine in ten random vectors lie, the point this one.", made)];
}

function boostBlock(row) {
  if (!row.boosted?.length) return [];
  const boosts = [];
  for (let at = 0; at < row.boosted.length; at += 3) boosts.push(row.boosted.slice(at, at + 3));
  const most = Math.max(...boosts.map(([, , gain]) => gain), 1e-9);
  const line = ([at, position, gain]) => [
    [token(textAt(at))],
    [drawn("svg", { "aria-hidden": "true", height: 9 }, drawn("rect", { class: "gain", width: percent(Math.max(0, gain) / most), height: 9, rx: 2 }))],
    [shownNumber(gain, 3)],
    [`${position + 1}`],
  ];
  const made = facing(["token", "share", "nats", "as token"], boosts.map(line));
  made.classList.add("signs", "boosts");
  return [block("Boosted tokens", "Each with its part of the divergence, and as which token of the reply it would stand.", made)];
}

// The points of a curve, the model left alone among them.
function pairs(flat) {
  const made = [[0, 0]];
  for (let at = 0; at < (flat?.length ?? 0); at += 2) if (flat[at]) made.push([flat[at], flat[at + 1]]);
  return made.sort((first, second) => first[0] - second[0]);
}

function curveBlock(row) {
  const own = pairs(row.doses);
  if (own.length < 3) return [];
  const random = vectors.filter((other) => other.bank === "null" && other.doses && other !== row).map((other) => pairs(other.doses));
  const every = [own, ...random].flat();
  const [low, high] = [Math.min(...every.map(([dose]) => dose)), Math.max(...every.map(([dose]) => dose))];
  const most = Math.max(...every.map(([, kl]) => kl), 1e-9);
  const x = (dose) => percent(0.04 + (0.92 * (dose - low)) / (high - low || 1));
  const y = (kl) => percent(1 - kl / most);
  const line = (points, kind) => drawn("g", { class: kind }, ...points.slice(1).map(([dose, kl], at) =>
    drawn("line", { class: "joins", x1: x(points[at][0]), y1: y(points[at][1]), x2: x(dose), y2: y(kl) })));
  const rules = [0, 0.5, 1].flatMap((level) => [
    drawn("line", { class: "axis", x1: 0, x2: "100%", y1: percent(1 - level), y2: percent(1 - level) }),
    drawn("text", { x: 0, dx: -8, y: percent(1 - level), dy: "0.35em", "text-anchor": "end" }, Number((most * level).toPrecision(2)).toString()),
  ]);
  const dots = own.map(([dose, kl]) => drawn("circle", { cx: x(dose), cy: y(kl), r: 3.5 }, drawn("title", {}, `multiplier ${dose}: ${kl} nats`)));
  const ticks = own.map(([dose]) => drawn("text", { x: x(dose), y: "100%", dy: "1.5em", "text-anchor": "middle" }, String(dose)));
  const told = own.map(([dose, kl]) => `${kl} at ${dose}`).join(", ");
  const chart = drawn("svg", { role: "img", "aria-label": `KL divergence over multipliers: ${told}` }, ...rules, ...ticks,
    ...random.map((points) => line(points, "null")), line(own, "bank"), drawn("g", { class: "bank" }, ...dots));
  const note = random.length ? `Nats against the multiplier. Dashed: ${counted(random.length, "random vector")}.` : "Nats against the multiplier.";
  return [block("Curve over multipliers", "KL divergence of the next-token distribution from the unsteered one.",
    element("figure", { class: "dose" }, chart, element("figcaption", { class: "note" }, note)))];
}

function replyPair(one) {
  const own = textAt(data.own[one.prompt]);
  const found = data.masked ? null : compared(own, one.text);
  const words = found && found[1].filter((word) => word.shared).length >= LEAST_SHARED * found[1].length ? found : null;
  const side = (title, text, tag, at) => element("div", {}, element("h3", {}, title),
    words ? element("div", { class: "said", dir: "auto" }, ...(text ? differing(words[at], tag) : spoken(text))) : collapsed(text, "said"));
  const scores = said.filter((signal) => (signal.value(one) ?? null) !== null).map((signal) => `${signal.name} ${shownNumber(signal.value(one), signal.digits)}`);
  const facts = [one.state, ...scores, ...(one.script ? [`in ${one.script} script`] : []), ...(one.refusal ? ["opens like a refusal"] : []), ...(one.ended ? [] : ["cut off"])];
  return element("div", { class: "pair" },
    element("div", { class: "exchange" }, side("Unsteered", own, "del", 0), side(one.sample ? `Steered, draw ${one.sample}` : "Steered", one.text, "ins", 1)),
    element("p", { class: "signals" }, facts.join(" · ")));
}

function speechBlock(row) {
  if (!row.completions.length) return [block("What the model says", "Nothing that this vector made the model say is listed here: it was not heard, or there was no room for it.")];
  const prompts = [...new Set(row.completions.map((one) => one.prompt))];
  const about = data.masked ? "" : "Marked: words that only one of the two says, where a fifth or more is said by both.";
  return [block("What the model says", about, ...prompts.flatMap((prompt) => [
    element("p", { class: "asked" }, element("span", {}, data.prompts.length > 1 ? `Prompt ${prompt} ` : "Prompt "), inline(textAt(data.prompts[prompt]))),
    ...row.completions.filter((one) => one.prompt === prompt).map(replyPair),
  ]))];
}

function useBlock(row) {
  const uses = row.bank === "null" ? [] : [...document.querySelectorAll(`article[data-uses="${row.vector}"]`)];
  return uses.map((one) => block("On other prompts", "As the finding that it stands for.", one.querySelector(".doses").cloneNode(true)));
}

function vectorPage(row, before, after) {
  const label = row.mode === null ? [] : [element("p", { class: "lead" }, verdictTag(row.verdict ?? "no verdict", modes[row.mode].level), ` mode ${row.mode}: `, inline(modes[row.mode].label))];
  const title = element("h1", { id: "one-title", tabindex: -1 }, row.bank === "null" ? `Random vector ${row.vector}` : `Vector ${row.vector}`);
  const ways = [[before, "previous", "←"], [after, "next", "→"]].map(([other, name, arrow]) =>
    other ? element("a", { href: linkOf(other), class: "way" }, name === "next" ? `${nameOf(other)} ${arrow}` : `${arrow} ${nameOf(other)}`) : element("span", { class: "way none", "aria-hidden": "true" }, arrow));
  const steps = element("nav", { class: "steps", "aria-label": "Vectors" }, element("a", { href: "#completions", class: "way" }, "all vectors"), ...ways);
  const reading = element("div", { class: "columns" },
    element("div", {}, ...boostBlock(row), ...curveBlock(row)), element("div", {}, ...hintBlocks(row), ...useBlock(row)));
  const columns = [...reading.children].some((side) => !side.children.length) ? element("div", {}, ...[...reading.children].flatMap((side) => [...side.children])) : reading;
  return [element("header", { class: "masthead" }, element("div", {}, title, ...label), steps), ...speechBlock(row), ...signalBlock(row), columns, ...decodedBlocks(row)];
}
