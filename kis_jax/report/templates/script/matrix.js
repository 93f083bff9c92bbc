// P of every layer, from 16-bit parts of its largest entry, and its picture.

const NOT_FINITE = -32768;

function superposition({ levels, scales }, n) {
  const parts = new Int16Array(bytes(levels).buffer);
  const at = (layer, i, j) => {
    const part = parts[(layer * n + i) * n + j];
    return part === NOT_FINITE ? NaN : part * scales[layer];
  };
  const size = (part) => (part === NOT_FINITE ? -1 : Math.abs(part));

  // Calls `each(i, j, |p| in parts)` for the pairs of a layer from a threshold on, p(i, j) the larger.
  function forPairs(layer, threshold, each) {
    const from = layer * n * n;
    const least = threshold / scales[layer];
    for (let i = 0; i < n; i++)
      for (let j = 0; j < i; j++) {
        const there = size(parts[from + i * n + j]);
        const back = size(parts[from + j * n + i]);
        if (there >= least && there >= back) each(i, j, there);
        else if (back >= least) each(j, i, back);
      }
  }

  // The pairs of a layer from a threshold on: how many, and the strongest of them in their order,
  // as [i, j, p(i, j), p(j, i)]. With `first`, pairs of one subject are left out.
  function pairs(layer, threshold, most, first = null) {
    const counts = new Uint32Array(32768);
    let count = 0;
    const apart = (i, j) => first === null || first[i] !== first[j];
    forPairs(layer, threshold, (i, j, part) => {
      if (!apart(i, j)) return;
      counts[part] += 1;
      count += 1;
    });
    let least = 32767;
    for (let above = counts[least]; above < most && least > 0;) above += counts[--least];
    const strongest = [];
    forPairs(layer, Math.max(threshold, least * scales[layer]), (i, j, part) => {
      if (part >= least && apart(i, j)) strongest.push([i, j, at(layer, i, j), at(layer, j, i)]);
    });
    strongest.sort((one, other) => Math.abs(other[2]) - Math.abs(one[2]));
    return { count, strongest: strongest.slice(0, most) };
  }

  // Groups of facts that pairs from a threshold on join, the largest first, each in an order given.
  function groups(layer, threshold, first, order) {
    const parent = Int32Array.from({ length: n }, (_, fact) => fact);
    const root = (fact) => {
      while (parent[fact] !== fact) fact = parent[fact] = parent[parent[fact]];
      return fact;
    };
    forPairs(layer, threshold, (i, j) => { if (first[i] !== first[j]) parent[root(i)] = root(j); });
    return gathered(order, root);
  }
  return { at, pairs, groups, n };
}

// Facts by their root, alone ones left out.
function gathered(order, root) {
  const found = new Map();
  for (const fact of order) {
    const top = root(fact);
    if (found.has(top)) found.get(top).push(fact);
    else found.set(top, [fact]);
  }
  return [...found.values()].filter((group) => group.length > 1)
    .sort((one, other) => other.length - one.length);
}

const COLOURS = ["--cold", "--zero", "--warm"];

// Colours from -1 to 1 in 511 steps, and the same dimmed, as the pixels of an image hold them.
function palette() {
  const style = getComputedStyle(document.documentElement);
  const [cold, zero, warm] = COLOURS.map((name) => style.getPropertyValue(name).trim()
    .match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16)));
  const pixel = (parts) => (255 << 24) | (parts[2] << 16) | (parts[1] << 8) | parts[0];
  const mixed = (one, other, share) => one.map((part, at) => Math.round(part + (other[at] - part) * share));
  const bright = new Uint32Array(511);
  const dim = new Uint32Array(511);
  for (let step = 0; step < 511; step++) {
    const value = step / 255 - 1;
    const colour = mixed(zero, value < 0 ? cold : warm, Math.abs(value) ** 0.7);
    bright[step] = pixel(colour);
    dim[step] = pixel(mixed(zero, colour, 0.3));
  }
  const grey = style.getPropertyValue("--shade").trim().match(/[0-9a-f]{2}/gi)
    .map((part) => parseInt(part, 16));
  return { bright, dim, none: pixel(grey) };
}

// The heat map on a canvas. `view` names what is asked of `app.state`: layer, threshold, order,
// pointed and pinned (places [row, column] in the order, or null).
function heatMap(canvas, app, matrix, { orders, breaks }, { onPoint, onPin }) {
  const { state } = app;
  const n = matrix.n;
  const pen = canvas.getContext("2d");
  const image = document.createElement("canvas");
  let colours = palette();
  let shown = { from: [0, 0], size: n }; // the square in sight, in places of the order
  let cell = [0, 0];

  const order = () => orders[state.order];
  const facts = ([row, column]) => [order()[row], order()[column]];

  // One pixel for one entry; where there are more entries than pixels, for the strongest of them.
  function colour() {
    const side = Math.min(shown.size, canvas.width);
    const each = shown.size / side;
    image.width = image.height = side;
    const pixels = new ImageData(side, side);
    const values = new Uint32Array(pixels.data.buffer);
    const facts = order();
    const { layer, threshold } = state;
    for (let y = 0; y < side; y++)
      for (let x = 0; x < side; x++) {
        let strongest = 0;
        let known = false;
        const lastRow = Math.max(Math.floor((y + 1) * each), Math.floor(y * each) + 1);
        const lastColumn = Math.max(Math.floor((x + 1) * each), Math.floor(x * each) + 1);
        for (let row = Math.floor(y * each); row < lastRow; row++)
          for (let column = Math.floor(x * each); column < lastColumn; column++) {
            const i = facts[row + shown.from[0]];
            const j = facts[column + shown.from[1]];
            const value = i === j ? NaN : matrix.at(layer, i, j);
            if (Number.isNaN(value)) continue;
            known = true;
            if (Math.abs(value) > Math.abs(strongest)) strongest = value;
          }
        const step = Math.round((Math.max(-1, Math.min(1, strongest)) + 1) * 255);
        values[y * side + x] = !known ? colours.none
          : (Math.abs(strongest) < threshold ? colours.dim : colours.bright)[step];
      }
    image.getContext("2d").putImageData(pixels, 0, 0);
    draw();
  }

  function draw() {
    const side = canvas.width;
    pen.imageSmoothingEnabled = false;
    pen.drawImage(image, 0, 0, side, side);
    const style = getComputedStyle(document.documentElement);
    const each = side / shown.size;
    pen.strokeStyle = style.getPropertyValue("--soft");
    pen.lineWidth = 0.5 * devicePixelRatio;
    for (const at of breaks[state.order] ?? []) {
      pen.strokeRect(-9, -9, (at - shown.from[1]) * each + 9, side + 18);
      pen.strokeRect(-9, -9, side + 18, (at - shown.from[0]) * each + 9);
    }
    for (const [place, name, width] of [[state.pointed, "--soft", 1], [state.pinned, "--ink", 2]]) {
      if (!place) continue;
      const y = (place[0] - shown.from[0]) * each;
      const x = (place[1] - shown.from[1]) * each;
      const across = Math.max(each, 5);
      pen.strokeStyle = style.getPropertyValue(name);
      pen.lineWidth = width * devicePixelRatio;
      pen.strokeRect(x + (each - across) / 2, y + (each - across) / 2, across, across);
      pen.lineWidth = devicePixelRatio / 2;
      pen.strokeRect(-9, y, side + 18, each);
      pen.strokeRect(x, -9, each, side + 18);
    }
  }

  function fit() {
    canvas.width = canvas.height = Math.round(canvas.clientWidth * devicePixelRatio);
    colours = palette();
    colour();
  }

  function zoom(factor, centre = state.pinned ?? state.pointed ?? shown.from.map((at) => at + shown.size / 2)) {
    const size = Math.max(Math.min(8, n), Math.min(n, Math.round(shown.size / factor)));
    const keep = (at, from) => Math.round(at - ((at - from) / shown.size) * size);
    look({ from: centre.map((at, axis) => keep(at, shown.from[axis])), size });
  }

  function look({ from, size }) {
    shown = { from: from.map((at) => Math.max(0, Math.min(n - size, at))), size };
    colour();
  }

  // So that a place is in sight.
  function reveal(place) {
    const from = place.map((at, axis) => Math.max(at - shown.size + 1, Math.min(at, shown.from[axis])));
    if (from.some((at, axis) => at !== shown.from[axis])) look({ from, size: shown.size });
  }

  function under(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width]
      .map((share, axis) => shown.from[axis] + Math.max(0, Math.min(shown.size - 1, Math.floor(share * shown.size))));
  }

  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    drag = { at: under(event), moved: false };
    if (shown.size < n) canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = under(event);
    if (drag && event.buttons && shown.size < n && at.some((place, axis) => place !== drag.at[axis])) {
      drag.moved = true;
      look({ from: shown.from.map((from, axis) => from + drag.at[axis] - at[axis]), size: shown.size });
    } else if (!event.buttons || event.pointerType !== "mouse") {
      cell = at;
      onPoint(at);
    }
  });
  canvas.addEventListener("pointerleave", () => onPoint(null));
  canvas.addEventListener("click", (event) => {
    if (!drag?.moved) onPin(under(event));
    drag = null;
  });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return; // a pinch on a touchpad, too; a plain wheel moves the page
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8, under(event));
  }, { passive: false });

  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  canvas.addEventListener("focus", () => onPoint(cell));
  canvas.addEventListener("blur", () => onPoint(null));
  canvas.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    const act = step ? () => {
      const stride = event.shiftKey ? 10 : 1;
      cell = cell.map((at, axis) => Math.max(0, Math.min(n - 1, at + stride * step[axis])));
      reveal(cell);
      onPoint(cell);
    } : { Enter: () => onPin(cell), " ": () => onPin(cell), Escape: () => onPin(null),
      "+": () => zoom(1.5, cell), "=": () => zoom(1.5, cell), "-": () => zoom(1 / 1.5, cell),
      0: () => look({ from: [0, 0], size: n }) }[event.key];
    if (!act || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  });

  app.on(["layer", "threshold", "order"], colour);
  app.on(["pointed", "pinned"], draw);
  whenLooksChange(canvas, fit);
  return { fit, facts, zoom, reveal, whole: () => look({ from: [0, 0], size: n }),
    placeOf: ([i, j]) => [order().indexOf(i), order().indexOf(j)] };
}
