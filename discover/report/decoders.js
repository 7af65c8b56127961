// What decoders say about a vector, each beside what they say about random ones.

const decodedNull = beside(data.decodings, "null");
const hintedNull = beside(data.hints, "null");
const hintedForced = beside(data.hints, "forced");
const percent = (share) => `${Math.round(1000 * share) / 10}%`;

function block(title, about, ...children) {
  return element("section", { class: "block" }, element("h2", {}, title), element("p", { class: "note" }, about), ...children);
}

// How many of several lists of tokens name each.
function tally(lists) {
  const counts = new Map();
  for (const list of lists) for (const at of new Set(list)) counts.set(at, (counts.get(at) ?? 0) + 1);
  return counts;
}

function tokens(list, counts, of) {
  return list.map((at) => {
    const shared = counts.get(at);
    const made = token(textAt(at));
    if (shared) {
      made.classList.add("common");
      made.append(element("small", {}, `${shared}/${of}`));
    }
    return made;
  });
}

function commonest(lists) {
  const counts = [...tally(lists)].sort((first, second) => second[1] - first[1]).slice(0, 6);
  return counts.map(([at, count]) => filled(token(textAt(at)), {}, [element("small", {}, `${count}/${lists.length}`)]));
}

function facing(heads, rows) {
  const cells = (row) => row.map((cell, at) => element(at ? "td" : "th", at ? { role: "cell", "data-label": heads[at] } : { scope: "row", role: "rowheader" }, ...cell));
  return element("table", { class: "facing", role: "table" },
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads.map((head) => element("th", { scope: "col", role: "columnheader" }, head)))),
    element("tbody", { role: "rowgroup" }, ...rows.map((row) => element("tr", { role: "row" }, ...cells(row)))));
}

function lensBlock(one, others) {
  const layers = new Map(others.flatMap((other) => other.lens.map(([layer]) => [layer, []])));
  for (const other of others) for (const [layer, list] of other.lens) layers.get(layer).push(list);
  const rows = one.lens.map(([layer, list]) => {
    const lists = layers.get(layer) ?? [];
    return [[`after block ${layer}`], tokens(list, tally(lists), lists.length), commonest(lists)];
  });
  const nearest = others.map((other) => other.nearest);
  if (one.nearest.length) rows.push([["nearest to the vector itself"], tokens(one.nearest, tally(nearest), nearest.length), commonest(nearest)]);
  return block("Tokens", `What its effect pushes up through the unembedding, layer by layer. Beside it the tokens that the same lens names most often for ${counted(others.length, "random vector")}, each with how many of these; what those share with this one is pale.`,
    facing(["lens", "this vector", "random vectors"], rows));
}

function describedBlock(one, others) {
  const random = others.filter((other) => other.described !== null).map((other) => element("li", {}, linked(other, nameOf(other)), ": ", inline(textAt(other.described))));
  return block("Described by the model itself", "Its effect put in the place of a word that the model is asked to explain.",
    element("div", { class: "said", dir: "auto" }, ...spoken(textAt(one.described))),
    element("details", { class: "more" }, element("summary", {}, `The same of ${counted(random.length, "random vector")}`), element("ul", { class: "plainly" }, ...random)));
}

function heated(one, most) {
  const line = element("div", { class: "said heatline", dir: "auto" });
  for (const [at, norm] of one.heat) {
    const made = element("span", { title: shownNumber(norm, 2) }, ...pieces(textAt(at)));
    made.style.setProperty("--heat", percent(Math.min(1, norm / most)));
    line.append(made);
  }
  return line;
}

function heatBlock(one, others) {
  const most = Math.max(...[one, ...others].flatMap((each) => each.heat.map(([, norm]) => norm)), 1e-9);
  const hottest = one.heat.reduce((best, each) => (each[1] > best[1] ? each : best), one.heat[0]);
  const figure = block("Where it acts", `Norm of its effect at the target over the tokens of prompt and reply: the fuller, the larger; full is ${shownNumber(most, 2)} median residual norms.`, heated(one, most));
  figure.append(element("p", { class: "note" }, "Largest at ", token(textAt(hottest[0])), ` (${shownNumber(hottest[1], 2)}).`));
  const random = others.filter((other) => other.heat.length);
  if (random.length) figure.append(element("details", { class: "more" }, element("summary", {}, `The same of ${counted(random.length, "random vector")}, on the same scale`),
    ...random.flatMap((other) => [element("h3", {}, linked(other, nameOf(other))), heated(other, most)])));
  return figure;
}

function decodedBlocks(row) {
  const [one] = ofVector(data.decodings, row);
  if (!one) return [];
  const others = decodedNull.filter((other) => other !== one);
  const made = [];
  if (one.lens.length || one.nearest.length) made.push(lensBlock(one, others));
  if (one.heat.length) made.push(heatBlock(one, others));
  if (one.described !== null) made.push(describedBlock(one, others));
  return made;
}

function branchLine([opening, text, novelty, surprise]) {
  return element("li", {}, token(textAt(opening)), " → ", element("span", { class: "text" }, ...spoken(textAt(text))),
    element("p", { class: "signals" }, `novelty ${shownNumber(novelty, 2)} · surprise ${shownNumber(surprise, 2)}`));
}

const best = (hints, many) => hints.flatMap((hint) => hint.branches.slice(0, 1)).slice(0, many);

function hintBlocks(row) {
  const found = ofVector(data.hints, row);
  const made = [];
  for (const hint of found) {
    const children = [element("ol", { class: "branches" }, ...hint.branches.map(branchLine))];
    for (const [name, others] of [["random vectors", hintedNull], ["forced first tokens", hintedForced]]) {
      const branches = best(others.filter((other) => other !== hint), 10);
      if (branches.length) children.push(element("details", { class: "more" }, element("summary", {}, `The most novel from ${name}`), element("ol", { class: "branches" }, ...branches.map(branchLine))));
    }
    if (hint.least !== null) {
      children.push(element("p", { class: "note" }, `The smallest multiplier that was tried at which the behaviour holds is ${hint.least}; there the model says:`),
        element("div", { class: "said", dir: "auto" }, ...spoken(textAt(hint.least_text) ?? "")));
    }
    made.push(block("Followed", "What the unsteered model goes on to say from the tokens that this vector boosts, the most novel first: 1 is unlike anything that random vectors or forced tokens lead to.", ...children));
  }
  return made;
}
