// The map: every vector by its effect, on a canvas, for there may be tens of thousands. The table below it holds the same.

const NEAR = 12;
const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function vectorMap(points) {
  const [canvas, tip] = [place("plane"), place("tip")];
  const plane = planeOf(points, canvas);
  const { across, down, wide, high } = plane;
  const state = { kinds: [], selected: new Set(), at: null, drag: null };
  const { again, redraw } = drawingOf(canvas, plane, state);
  const shown = (row) => row.bank !== "null" || place("with-null").checked;
  const tool = () => document.querySelector("input[name=tool]:checked").value;
  const saying = (row) => row.completions.find((one) => one.mode === row.mode) ?? row.completions[0];
  const spokenBy = (row) => (saying(row) ? spoken(preview(saying(row).text)) : ["nothing that is listed here"]);

  // ----- kinds

  function classed() {
    state.kinds = kindsOf(points, place("by").value);
    place("legend").replaceChildren(...state.kinds.map((one) => {
      const rows = points.filter((row) => row.kind === one);
      one.points = rows;
      one.icon = iconOf(one);
      const line = button("", { class: "kind" }, () => select(rows, false));
      line.append(one.icon, element("span", {}, ...one.label), element("small", {}, grouped(rows.length)));
      return element("li", {}, line);
    }));
    again();
  }

  // ----- pointing at one, selecting many

  function nearest(x, y) {
    let [found, least] = [null, NEAR];
    for (const row of points) {
      // Where a learned and a random vector lie together, the learned one is meant.
      const away = Math.hypot(across(row) - x, down(row) - y) + (row.bank === "null" ? 2 : 0);
      if (away < least && shown(row)) [found, least] = [row, away];
    }
    return found;
  }

  function pointAt(row) {
    state.at = row;
    tip.hidden = !row;
    if (row) {
      const verdict = row.verdict ? verdictTag(row.verdict, null) : "";
      tip.replaceChildren(
        element("p", {}, element("strong", {}, nameOf(row)), " ", verdict, row.mode === null ? "" : ` mode ${row.mode}`),
        element("p", { class: "text", dir: "auto" }, ...spokenBy(row)),
      );
      const beyond = across(row) > wide() / 2;
      tip.style.left = beyond ? "auto" : `${Math.max(0, across(row) + 14)}px`;
      tip.style.right = beyond ? `${Math.max(0, wide() - across(row) + 14)}px` : "auto";
      tip.style.top = `${Math.max(0, Math.min(high() - tip.offsetHeight, down(row) + 10))}px`;
    }
    redraw(false);
  }

  function select(rows, joined) {
    state.selected = new Set(joined ? [...state.selected, ...rows] : rows);
    follow();
  }

  function follow() {
    const { selected } = state;
    const name = selected.size === 1 ? nameOf([...selected][0]) : counted(selected.size, "selected vector");
    narrow(name, selected.size ? (row) => selected.has(row.of) : null);
    // To narrow the table lets go of what was selected here.
    state.selected = selected;
    redraw(true);
  }

  function released(drag, x, y) {
    const [first] = drag.path;
    if (Math.hypot(first[0] - x, first[1] - y) < 4) {
      const found = nearest(x, y);
      pointAt(found);
      select(found ? [found] : [], drag.joined && found);
    } else if (drag.tool !== "move") {
      const pen = canvas.getContext("2d");
      const path = outline(drag);
      pen.setTransform(1, 0, 0, 1, 0, 0);
      select(points.filter((row) => shown(row) && pen.isPointInPath(path, across(row), down(row))), drag.joined);
    }
    redraw(false);
  }

  function dragged(drag, x, y) {
    drag.path.push([x, y]);
    if (drag.tool === "move") plane.look(drag.from[0] - (x - drag.path[0][0]) / plane.unit(), drag.from[1] - (y - drag.path[0][1]) / plane.unit());
    redraw(drag.tool === "move");
  }

  const pointer = {
    pointerdown(event) {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      const { x, y } = plane.view;
      state.drag = { tool: tool(), path: [[event.offsetX, event.offsetY]], from: [x, y], joined: event.shiftKey };
    },
    pointermove(event) {
      if (state.drag) return dragged(state.drag, event.offsetX, event.offsetY);
      const found = nearest(event.offsetX, event.offsetY);
      canvas.classList.toggle("over", Boolean(found));
      if (found !== state.at) pointAt(found);
    },
    pointerup(event) {
      const { drag } = state;
      state.drag = null;
      if (drag) released(drag, event.offsetX, event.offsetY);
    },
    pointercancel() {
      state.drag = null;
      redraw(false);
    },
    pointerleave() {
      if (!state.drag && document.activeElement !== canvas) pointAt(null);
    },
    dblclick: () => state.at && (location.hash = linkOf(state.at)),
    blur: () => pointAt(null),
  };
  for (const [name, act] of Object.entries(pointer)) canvas.addEventListener(name, act);

  function zoom(factor, x, y) {
    plane.zoom(factor, x, y);
    redraw(true);
  }

  // The page scrolls on unless the map has the focus, or Ctrl is held.
  canvas.addEventListener("wheel", (event) => {
    const factor = Math.exp(-event.deltaY / 300);
    if ((document.activeElement !== canvas && !event.ctrlKey) || (factor < 1 && plane.view.zoom === 1)) return;
    event.preventDefault();
    zoom(factor, event.offsetX, event.offsetY);
  }, { passive: false });

  // ----- keys

  const middle = () => (state.at ? [across(state.at), down(state.at)] : [wide() / 2, high() / 2]);
  const ACTS = {
    "+": () => zoom(1.5, ...middle()),
    "=": () => zoom(1.5, ...middle()),
    "-": () => zoom(1 / 1.5, ...middle()),
    0: () => zoom(0, ...middle()),
    " ": () => state.at && toggled(state.at),
    Enter: () => state.at && (location.hash = linkOf(state.at)),
    Escape: () => select([], false),
  };

  function toggled(row) {
    if (!state.selected.delete(row)) state.selected.add(row);
    follow();
  }

  // The next point within 45 degrees of the way, those straight ahead before those aside.
  function onward([dx, dy]) {
    let [found, least] = [state.at, Infinity];
    for (const row of points) {
      const [x, y] = [across(row) - across(state.at), down(row) - down(state.at)];
      const [along, aside] = [x * dx + y * dy, Math.abs(x * dy - y * dx)];
      if (along > 0 && aside <= along && along + 2 * aside < least && shown(row)) [found, least] = [row, along + 2 * aside];
    }
    return found;
  }

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !(event.key in WAYS || event.key in ACTS)) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key in ACTS) return void ACTS[event.key]();
    const next = state.at ? onward(WAYS[event.key]) : points[0];
    if (!plane.seen(next)) {
      plane.facing(next);
      redraw(true);
    }
    pointAt(next);
    place("plane-told").replaceChildren(`${nameOf(next)}, ${next.verdict ?? "no verdict"}: `, ...spokenBy(next));
  });

  place("by").addEventListener("change", classed);
  place("with-null").addEventListener("change", () => redraw(true));
  for (const [id, key] of [["closer", "+"], ["further", "-"], ["whole-map", "0"]]) place(id).addEventListener("click", () => ACTS[key]());
  new ResizeObserver(() => redraw(false)).observe(canvas);
  window.matchMedia("print").addEventListener("change", again);
  classed();
  return {
    again,
    // Shows which vectors the table holds, without asking the table for them.
    show(rows) {
      state.selected = new Set(rows);
      redraw(true);
    },
  };
}
