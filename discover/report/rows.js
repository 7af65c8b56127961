// The data of the page as rows, and the signals that they hold.

const data = JSON.parse(document.getElementById("data").textContent);
const textAt = (at) => (at === null || at === undefined ? null : data.texts[at]);
const ORDER = ["finding", "fragment", "anomaly", "steerable", "ordinary", "broken", "unchanged", null];

function rowsOf(columns) {
  const names = Object.keys(columns);
  return columns[names[0]].map((_, index) => {
    const row = { index };
    for (const name of names) row[name] = columns[name][index];
    return row;
  });
}

const modes = rowsOf(data.modes);
for (const mode of modes) for (const name of ["label", "named", "terms"]) mode[name] = textAt(mode[name]);

const vectors = rowsOf(data.vectors);
const vectorAt = new Map();
for (const row of vectors) {
  row.bank = data.banks[row.bank];
  row.verdict = row.mode === null ? null : modes[row.mode].verdict;
  row.completions = [];
  vectorAt.set(`${row.bank} ${row.vector}`, row);
}

const utterances = rowsOf(data.said);
const completions = rowsOf(data.completions).map((row) => {
  const made = { ...utterances[row.said], ...row, bank: data.banks[row.bank] };
  made.verdict = made.mode === null ? null : modes[made.mode].verdict;
  made.textAt = made.text;
  made.text = textAt(made.text);
  made.opening = textAt(made.opening);
  made.of = made.vector === null ? undefined : vectorAt.get(`${made.bank} ${made.vector}`);
  made.of?.completions.push(made);
  return made;
});

for (const list of [data.decodings, data.hints]) for (const row of list) row.bank = data.banks[row.bank];
const beside = (rows, bank) => rows.filter((row) => row.bank === bank);
const ofVector = (rows, row) => rows.filter((one) => one.bank === row.bank && one.vector === row.vector);

// Texts to search in, made when the first search comes.
const lowered = [];
const haystack = (at) => (lowered[at] ??= data.texts[at].replaceAll(MARK, "").toLowerCase());

const nameOf = (row) => (row.bank === "null" ? `random ${row.vector}` : `vector ${row.vector}`);
const linkOf = (row) => `#${row.bank === "null" ? "random" : "vector"}-${row.vector}`;
const linked = (row, text) => element("a", { href: linkOf(row) }, text);

// A signal is { name, key, digits, about, value(completion) }; those of a vector are the same for all that it says.
const signal = (name, key, digits, about) => ({ name, key, digits, about, value: (row) => row[key], own: (row) => row[key] });
const ofVectors = (name, key, digits, about) => ({ ...signal(name, key, digits, about), value: (row) => row.of?.[key] ?? null });
const said = [
  signal("surprise", "surprise", 2, "mean nats a token under the unsteered model"),
  signal("onward surprise", "onward_surprise", 2, "the same over sixteen tokens from where it parts from the unsteered reply on"),
  signal("steered surprise", "steered_surprise", 2, "mean nats a token under the model that said it"),
  signal("repetition", "repetition", 2, "share of trigrams that occurred before"),
  signal("distance", "distance", 2, "0 where the words are those of the unsteered reply, 1 where none is"),
  signal("meaning", "meaning", 2, "distance of its embedding from that of the unsteered reply"),
  signal("tokens", "tokens", 0, "length of the completion"),
];
const known = data.known.map((name, at) => ({
  name: `likeness ${at + 1}`,
  digits: 3,
  about: "cosine of effects with a known direction",
  direction: textAt(name),
  value: (row) => row.of?.known?.[at] ?? null,
  own: (row) => row.known?.[at] ?? null,
}));
const glanced = [
  ofVectors("KL", "kl", 3, "nats by which it moves the next-token distribution"),
  ofVectors("first tokens shifted", "shifted", 2, "share of prompts on which another first token becomes the likeliest"),
  ofVectors("effect norm", "norm", 3, "in median residual norms at the target"),
  ofVectors("agreement", "agreement", 2, "mean cosine of its effects on different prompts"),
  ofVectors("natural presence", "presence", 2, "how much of the unsteered residual stream lies along it, in times of a random direction"),
  ofVectors("objective", "objective", 3, "what the search reached"),
  ...known,
];
const held = (one) => completions.some((row) => (one.value(row) ?? null) !== null);
const signals = [...glanced, ...said].filter(held);
const shownNumber = (value, digits) => (value === null || value === undefined ? "not scored" : value.toFixed(digits));
