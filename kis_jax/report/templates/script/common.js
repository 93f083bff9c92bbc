// What every page uses: its data, elements whose text is never markup, numbers as text.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const SERIES = 6; // colours of lines that `style.css` has

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const element = (name, attributes = {}, ...children) =>
  filled(document.createElement(name), attributes, children);
const drawn = (name, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, name), attributes, children);

// A number to read, as `words.number` in Python writes it; what is not finite is a dash.
function number(value, digits = 2) {
  if (value === null || !Number.isFinite(value)) return "–";
  const text = value.toLocaleString("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
  return /[1-9]/.test(text) ? text.replace("-", "−") : text.replace("-", "");
}

const counted = (count, one, many = `${one}s`) =>
  `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

function bytes(base64) {
  const text = atob(base64);
  const found = new Uint8Array(text.length);
  for (let place = 0; place < text.length; place++) found[place] = text.charCodeAt(place);
  return found;
}

// Changes are gathered and drawn once a frame, by those who draw what has changed.
function watched(state) {
  const drawers = [];
  let changed = new Set();
  const frame = () => {
    const now = changed;
    changed = new Set();
    for (const [names, draw] of drawers) if (names.some((name) => now.has(name))) draw();
  };
  return {
    state,
    on: (names, draw) => drawers.push([names, draw]),
    change(values) {
      const waiting = changed.size > 0;
      for (const [name, value] of Object.entries(values)) {
        if (state[name] === value) continue;
        state[name] = value;
        changed.add(name);
      }
      if (!waiting && changed.size > 0) requestAnimationFrame(frame);
    },
    everything() {
      const waiting = changed.size > 0;
      Object.keys(state).forEach((name) => changed.add(name));
      if (!waiting) requestAnimationFrame(frame);
    },
  };
}

// Calls `draw` when the width of a node changes, and when the reader turns to dark or light.
function whenLooksChange(node, draw) {
  let width = node.clientWidth;
  new ResizeObserver(() => {
    if (node.clientWidth !== width) {
      width = node.clientWidth;
      draw();
    }
  }).observe(node);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

// A key pressed anywhere but where it writes.
function onKey(keys) {
  document.addEventListener("keydown", (event) => {
    const writes = event.target.matches?.("input:not([type=range]), select, textarea");
    if (writes || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
}
