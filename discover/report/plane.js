// Where points stand on a canvas, from how near and from where they are looked at; all in pixels of the page.

const EDGE = 18;
const DEEPEST = 60;

function planeOf(points, canvas) {
  const span = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const [sides, ends] = [span(points.map((row) => row.x)), span(points.map((row) => row.y))];
  const size = [sides[1] - sides[0], ends[1] - ends[0]];
  const centre = [(sides[0] + sides[1]) / 2, (ends[0] + ends[1]) / 2];
  const view = { zoom: 1, x: 0, y: 0 };
  const wide = () => canvas.clientWidth;
  const high = () => canvas.clientHeight;
  const unit = () => Math.min((wide() - 2 * EDGE) / (size[0] || 1), (high() - 2 * EDGE) / (size[1] || 1)) * view.zoom;
  const across = (row) => wide() / 2 + (row.x - centre[0] - view.x) * unit();
  const down = (row) => high() / 2 + (row.y - centre[1] - view.y) * unit();

  // Some of the points always stay in sight.
  function look(x, y) {
    const [aside, along] = size.map((length) => (length / 2) * (1 - 1 / view.zoom));
    view.x = Math.max(-aside, Math.min(aside, x));
    view.y = Math.max(-along, Math.min(along, y));
  }

  return {
    ...{ view, wide, high, unit, across, down, look },
    count: points.length,
    seen: (row) => across(row) >= 0 && across(row) <= wide() && down(row) >= 0 && down(row) <= high(),
    facing: (row) => look(row.x - centre[0], row.y - centre[1]),
    // The place (x, y) stays where it is.
    zoom(factor, x, y) {
      const before = unit();
      view.zoom = Math.min(DEEPEST, Math.max(1, view.zoom * factor));
      const moved = 1 / before - 1 / unit();
      look(view.x + (x - wide() / 2) * moved, view.y + (y - high() / 2) * moved);
    },
  };
}
