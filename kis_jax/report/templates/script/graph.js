// Collisions above a threshold as groups of facts: a circle for each, and the same in words.

// Groups of facts joined by pairs, the largest first; the facts of each in the order given.
function groups(pairs, order) {
  const parent = new Map();
  const root = (fact) => {
    while (parent.get(fact) !== fact) fact = parent.get(fact);
    return fact;
  };
  for (const [i, j] of pairs) {
    for (const fact of [i, j]) if (!parent.has(fact)) parent.set(fact, fact);
    parent.set(root(i), root(j));
  }
  const place = new Map(order.map((fact, at) => [fact, at]));
  const found = new Map();
  for (const fact of [...parent.keys()].sort((one, other) => place.get(one) - place.get(other))) {
    const group = root(fact);
    found.set(group, [...(found.get(group) ?? []), fact]);
  }
  return [...found.values()].sort((one, other) => other.length - one.length);
}

const LABEL = 92; // pixels for a name beside its fact
const short = (text, most = 13) => {
  const letters = [...text];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : text;
};

// Where each fact of each group stands: circles, side by side in rows.
function placed(all, width) {
  const points = new Map();
  let [x, y, row] = [0, 0, 0];
  for (const group of all) {
    const radius = group.length === 1 ? 0 : Math.max(14, (group.length * 15) / (2 * Math.PI));
    const [wide, high] = group.length <= 2 ? [2 * LABEL + 48, 34] : [2 * (radius + LABEL), 2 * (radius + LABEL)];
    if (x + wide > width && x > 0) [x, y, row] = [0, y + row, 0];
    group.forEach((fact, at) => {
      const angle = (2 * Math.PI * at) / group.length + (group.length <= 2 ? Math.PI : -Math.PI / 2);
      points.set(fact, { angle, radius, x: x + wide / 2 + radius * Math.cos(angle),
        y: y + high / 2 + radius * Math.sin(angle) });
    });
    x += wide;
    row = Math.max(row, high);
  }
  return { points, height: y + row };
}

function graphView(app, matrix, { layers, facts, order }, { onPin }) {
  const { state } = app;
  const [host, says, list] = ["graph", "graph-says", "graph-groups"].map(byId);
  let nodes = new Map();
  const name = (fact) => element("button", { type: "button", class: "plain",
    onclick: () => app.change({ fact }) }, element("bdi", {}, facts[fact].subject));

  function draw() {
    const width = Math.max(200, host.clientWidth);
    const all = matrix.pairs(state.layer, state.threshold)
      .filter(([i, j]) => facts[i].first !== facts[j].first);
    const most = width < 600 ? 36 : 90;
    const kept = [];
    const inSight = new Set();
    for (const pair of all) {
      const more = [pair[0], pair[1]].filter((fact) => !inSight.has(fact));
      if (inSight.size + more.length > most) break;
      more.forEach((fact) => inSight.add(fact));
      kept.push(pair);
    }
    const whole = groups(all, order);
    const { points, height } = placed(groups(kept, order), width);
    const picture = drawn("svg", { width, height: Math.max(height, 1), role: "img",
      "aria-label": "Facts that collide, joined by lines; the groups stand in words below." });
    for (const [i, j, there, back] of kept) {
      const [from, to] = [points.get(i), points.get(j)];
      picture.append(drawn("line", { class: "edge", x1: from.x, y1: from.y, x2: to.x, y2: to.y,
        "stroke-width": (0.6 + 2.4 * Math.min(1, there)).toFixed(2), onclick: () => onPin([i, j]) },
        drawn("title", {}, `${facts[i].subject} → ${facts[j].subject}: ${number(there, 3)}, back ${number(back, 3)}`)));
    }
    nodes = new Map();
    for (const [fact, { x, y, angle, radius }] of points) {
      const left = Math.cos(angle) < -1e-9;
      const turn = radius > 14 ? (angle * 180) / Math.PI + (left ? 180 : 0) : 0;
      const node = drawn("g", { class: fact === state.fact ? "node chosen" : "node",
        onclick: () => app.change({ fact }) },
        drawn("circle", { cx: x, cy: y, r: 4 }),
        drawn("text", { x: x + (left ? -8 : 8), y: y + 4, "text-anchor": left ? "end" : "start",
          transform: `rotate(${turn.toFixed(1)} ${x.toFixed(1)} ${y.toFixed(1)})` }, short(facts[fact].subject)),
        drawn("title", {}, `${facts[fact].before}${facts[fact].subject}${facts[fact].after} ${facts[fact].target}`));
      nodes.set(fact, node);
      picture.append(node);
    }
    host.replaceChildren(picture);
    tell(all, kept, whole, inSight.size);
  }

  function tell(all, kept, whole, inSight) {
    const joined = whole.reduce((sum, group) => sum + group.length, 0);
    says.textContent = all.length
      ? `At layer ${layers[state.layer]}, ${counted(all.length, "pair")} of ${counted(joined, "fact")} collide with p of at `
        + `least ${number(state.threshold)}, in ${counted(whole.length, "group")}.`
        + (kept.length < all.length ? ` Drawn are the strongest ${counted(kept.length, "pair")}, of ${counted(inSight, "fact")}.` : "")
      : `At layer ${layers[state.layer]} no two subjects collide with p of at least ${number(state.threshold)}.`;
    const MOST = 12;
    list.replaceChildren(...whole.slice(0, MOST).map((group) => element("li", {},
      `${counted(group.length, "fact")}: `, ...group.flatMap((fact, at) => [at ? ", " : "", name(fact)]))),
      ...(whole.length > MOST ? [element("li", { class: "note" }, `and ${whole.length - MOST} more`)] : []));
  }

  app.on(["layer", "threshold"], draw);
  app.on(["fact"], () => nodes.forEach((node, fact) => node.classList.toggle("chosen", fact === state.fact)));
  whenLooksChange(host, draw);
}
