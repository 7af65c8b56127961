// The drawing of the map: the points on a layer of their own, above it what follows the pointer.

function outline({ tool, path }) {
  const shape = new Path2D();
  const [from, to] = [path[0], path.at(-1)];
  if (tool === "box") shape.rect(from[0], from[1], to[0] - from[0], to[1] - from[1]);
  else path.forEach(([x, y], at) => (at ? shape.lineTo(x, y) : shape.moveTo(x, y)));
  shape.closePath();
  return shape;
}

// Draws what `state` holds: kinds with their points, those selected, the one pointed at, and what is dragged.
function drawingOf(canvas, plane, state) {
  const { across, down, wide, high } = plane;
  const layer = document.createElement("canvas");
  const sprites = new Map();
  let [waiting, stale] = [false, true];

  // At once, for paper does not wait.
  function again() {
    sprites.clear();
    stale = true;
    if (wide()) draw();
  }

  // Points are drawn anew only where they stand or look otherwise, not with every move of the pointer.
  function redraw(changed) {
    stale ||= changed;
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (wide()) draw();
    });
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [wide(), high()].map((length) => Math.round(length * ratio));
    if (canvas.width !== width || canvas.height !== height) {
      for (const one of [canvas, layer]) Object.assign(one, { width, height });
      stale = true;
    }
    const size = (plane.count > 3000 ? 3 : 4) * Math.min(1.8, plane.view.zoom ** 0.25);
    if (stale) drawPoints(layer.getContext("2d"), size, ratio);
    stale = false;
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.drawImage(layer, 0, 0);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.strokeStyle = getComputedStyle(canvas).color;
    pen.lineWidth = 2;
    if (state.at) {
      pen.beginPath();
      pen.arc(across(state.at), down(state.at), size + 5, 0, 2 * Math.PI);
      pen.stroke();
    }
    if (state.drag && state.drag.tool !== "move" && state.drag.path.length > 1) {
      pen.setLineDash([5, 4]);
      pen.stroke(outline(state.drag));
      pen.setLineDash([]);
    }
  }

  function drawPoints(pen, size, ratio) {
    const { width, height } = layer;
    const [unit, left, top] = [plane.unit() * ratio, across({ x: 0 }) * ratio, down({ y: 0 }) * ratio];
    const ground = getComputedStyle(canvas).backgroundColor;
    pen.clearRect(0, 0, width, height);
    for (const one of [...state.kinds].reverse()) {
      if (one.hollow && !place("with-null").checked) continue;
      const key = `${state.kinds.indexOf(one)} ${size} ${ratio}`;
      if (!sprites.has(key)) sprites.set(key, spriteOf(one, one.hollow ? 0.8 * size : size, ratio, ground));
      const image = sprites.get(key);
      const half = image.width / 2;
      // Of random directions that lie on each other one is drawn: there may be tens of thousands.
      const taken = new Uint8Array(one.hollow ? Math.ceil(width / 2 + 1) * Math.ceil(height / 2 + 1) : 0);
      for (const row of one.points) {
        const [x, y] = [Math.round(left + row.x * unit), Math.round(top + row.y * unit)];
        if (x < -half || y < -half || x > width + half || y > height + half) continue;
        const lit = state.selected.has(row);
        const cell = (y >> 1) * Math.ceil(width / 2 + 1) + (x >> 1);
        if (taken[cell] && !lit) continue;
        taken[cell] = 1;
        pen.globalAlpha = state.selected.size && !lit ? 0.2 : one.hollow ? 0.7 : 1;
        pen.drawImage(image, x - half, y - half);
      }
    }
  }

  return { again, redraw };
}
