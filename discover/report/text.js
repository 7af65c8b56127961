"use strict";
// Completions are hostile: text enters the page through text nodes only, never as markup.

const PREVIEW = 240;
const PREVIEW_LINES = 6;
const MARK = "\u0001";
const MOST_PAIRS = 400000;
const WORDS = /[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]\s*|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]+\s*|\s+/g;

const place = (id) => document.getElementById(id);
const grouped = (number) => number.toLocaleString("en");
const counted = (number, word) => `${grouped(number)} ${word}${number === 1 ? "" : "s"}`;

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const element = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
const drawn = (tag, attributes, ...children) => filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

function button(text, attributes, act) {
  const made = element("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", act);
  return made;
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

function preview(text) {
  const end = previewEnd(text);
  return end < text.length ? `${text.slice(0, end)}…` : text;
}

const spoken = (text) => (text ? pieces(text) : [element("em", {}, "(nothing)")]);
const inline = (text) => element("bdi", {}, ...spoken(text));
const token = (text) => element("bdi", { class: "token" }, ...spoken(text));

// A text that shows its beginning, and the whole of it when asked.
function collapsed(text, kind) {
  const shown = element("div", { class: kind, dir: "auto" });
  const cell = element("div", {}, shown);
  const end = previewEnd(text);
  let whole = end === text.length;
  const all = whole ? "" : `all ${grouped(lengthOf(text))} characters`;
  const fill = () => shown.replaceChildren(...spoken(whole ? text : text.slice(0, end)));
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

// The words of both texts, each with whether the other says it too, in the same order (longest common subsequence); null
// where that would take too long.
function compared(first, second) {
  const sides = [first, second].map((text) => text.match(WORDS) ?? []);
  const [mine, other] = sides.map((words) => words.map((word) => word.trim()));
  if (mine.length * other.length > MOST_PAIRS) return null;
  const width = other.length + 1;
  const longest = new Uint16Array((mine.length + 1) * width);
  for (let row = mine.length - 1; row >= 0; row -= 1) {
    for (let column = other.length - 1; column >= 0; column -= 1) {
      const below = Math.max(longest[(row + 1) * width + column], longest[row * width + column + 1]);
      longest[row * width + column] = mine[row] === other[column] ? longest[(row + 1) * width + column + 1] + 1 : below;
    }
  }
  const shared = sides.map((words) => words.map(() => false));
  for (let row = 0, column = 0; row < mine.length && column < other.length; ) {
    if (mine[row] === other[column]) shared[0][row++] = shared[1][column++] = true;
    else if (longest[(row + 1) * width + column] >= longest[row * width + column + 1]) row += 1;
    else column += 1;
  }
  return sides.map((words, side) => words.map((word, at) => ({ word, shared: shared[side][at] })));
}

// Runs of words that the other text does not say stand in elements of their own.
function differing(words, tag) {
  const made = [];
  for (let from = 0; from < words.length; ) {
    let to = from;
    while (to < words.length && words[to].shared === words[from].shared) to += 1;
    const run = words.slice(from, to).map((one) => one.word).join("");
    const end = run.trimEnd().length;
    if (words[from].shared || !end) made.push(...pieces(run));
    else made.push(element(tag, {}, ...pieces(run.slice(0, end))), run.slice(end));
    from = to;
  }
  return made;
}
