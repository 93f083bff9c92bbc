// Lines and bands over one axis that the reader moves along: layers, depths or numbers of edits.

// Where a value stands, linear or, for what spans decades, by its inverse hyperbolic sine.
const SCALES = {
  linear: { to: (value) => value, ticks: linearTicks },
  asinh: { to: Math.asinh, ticks: (low, high) =>
    [-1000, -100, -10, -1, 0, 1, 10, 100, 1000, 10000].filter((tick) => tick >= low && tick <= high) },
};

function linearTicks(low, high) {
  const rough = (high - low || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const ticks = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-9; tick += step)
    ticks.push(Math.abs(tick) < step * 1e-9 ? 0 : tick);
  return ticks;
}

const finite = (values) => values.filter((value) => value !== null && Number.isFinite(value));

// The path through what is finite; a gap begins a new piece.
function path(points) {
  let pen = "M";
  return points.map(([x, y]) => {
    if (!Number.isFinite(y)) { pen = "M"; return ""; }
    const piece = `${pen}${x.toFixed(1)},${y.toFixed(1)}`;
    pen = "L";
    return piece;
  }).join("");
}

// A chart in `host`. `x` are the values of the axis, `log` spreads them by their logarithm.
//   draw({ lines: [{ values, look, name }], bands: [{ low, high, name }], marks: [{ value, name }] })
//   cursor(place) moves the upright line; picking a place calls `onPick`.
function chart(host, { x, label, height = 170, scale = "linear", log = false, low = 0, high = null, onPick }) {
  const picture = drawn("svg", { role: "img", "aria-label": label });
  host.replaceChildren(picture);
  const across = x.map((value) => (log ? Math.log(Math.max(value, 1)) : value));
  const { to, ticks } = SCALES[scale];
  const margin = { left: 42, right: 16, top: 8, bottom: 24 };
  let content = { lines: [], bands: [], marks: [] };
  let place = 0;
  let width = 0;
  const span = across.at(-1) - across[0];
  const left = (at) => span
    ? margin.left + ((across[at] - across[0]) / span) * (width - margin.left - margin.right)
    : (margin.left + width - margin.right) / 2;
  const upright = drawn("line", { class: "cursor", y1: margin.top, y2: height - margin.bottom });

  function draw() {
    width = Math.max(160, host.clientWidth);
    const { lines, bands = [], marks = [] } = content;
    const all = finite([...lines.flatMap((line) => line.values), ...marks.map((mark) => mark.value),
      ...bands.flatMap((band) => [...band.low, ...band.high])]);
    const bottom = Math.min(low, ...all);
    const top = high ?? Math.max(bottom + 1e-9, ...all);
    const room = height - margin.top - margin.bottom;
    const y = (value) => (value === null || !Number.isFinite(value) ? NaN
      : margin.top + room * (1 - (to(value) - to(bottom)) / (to(top) - to(bottom) || 1)));
    picture.setAttribute("width", width);
    picture.setAttribute("height", height);
    picture.replaceChildren();
    for (const tick of ticks(bottom, top)) {
      const at = y(tick);
      picture.append(
        drawn("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: at, y2: at }),
        drawn("text", { x: margin.left - 6, y: at + 4, "text-anchor": "end" },
          number(tick, Number.isInteger(tick) ? 0 : Math.abs(tick) < 0.1 ? 2 : 1)),
      );
    }
    const each = Math.max(1, Math.ceil((x.length * 26) / width));
    let free = -Infinity;
    x.forEach((value, at) => {
      if (at % each || left(at) < free) return;
      free = left(at) + 26;
      picture.append(drawn("text", { x: left(at), y: height - 6, "text-anchor": "middle" },
        value.toLocaleString("en")));
    });
    for (const band of bands) {
      const edge = band.low.map((value, at) => [left(at), y(value)]);
      const back = band.high.map((value, at) => [left(at), y(value)]).reverse();
      const whole = [...edge, ...back].filter(([, height]) => Number.isFinite(height));
      picture.append(drawn("path", { class: `band ${band.look ?? ""}`, d: `${path(whole)}Z` },
        drawn("title", {}, band.name)));
    }
    for (const mark of marks) {
      picture.append(drawn("line", { class: "mark", x1: margin.left, x2: width - margin.right,
        y1: y(mark.value), y2: y(mark.value) }, drawn("title", {}, mark.name)));
    }
    for (const line of lines) {
      const points = line.values.map((value, at) => [left(at), y(value)]);
      picture.append(drawn("path", { class: `line ${line.look}`, d: path(points) },
        drawn("title", {}, line.name)));
      if (points.length === 1 && Number.isFinite(points[0][1]))
        picture.append(drawn("circle", { class: line.look, cx: points[0][0], cy: points[0][1], r: 3 }));
    }
    picture.append(upright);
    cursor(place);
  }

  function cursor(at) {
    place = at;
    upright.setAttribute("x1", left(at));
    upright.setAttribute("x2", left(at));
  }

  function pick(event) {
    const from = event.clientX - picture.getBoundingClientRect().left;
    let nearest = 0;
    x.forEach((_, at) => {
      if (Math.abs(left(at) - from) < Math.abs(left(nearest) - from)) nearest = at;
    });
    onPick(nearest);
  }
  picture.addEventListener("pointerdown", pick);
  picture.addEventListener("pointermove", (event) => { if (event.buttons) pick(event); });
  whenLooksChange(host, draw);
  return { draw: (found) => { content = found; draw(); }, cursor };
}

// A line of names with the looks of their lines; a name may be a button.
const legend = (entries) => element("ul", { class: "legend" },
  ...entries.map(({ look, name }) => element("li", {}, element("i", { class: look }), name)));
