// Collisions above a threshold as groups of facts: a circle for each, and the same in words.

const LABEL = 92; // pixels for a name beside its fact
const LEAST = 14; // radius of a circle; names around one so small lie level
const APART = 15; // pixels between facts on a circle
const short = (text, most = 13) => {
  const letters = [...text];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : text;
};

// Groups of facts that these pairs join.
function joined(pairs, order) {
  const parent = new Map(pairs.flatMap(([i, j]) => [[i, i], [j, j]]));
  const root = (fact) => {
    while (parent.get(fact) !== fact) fact = parent.get(fact);
    return fact;
  };
  for (const [i, j] of pairs) parent.set(root(i), root(j));
  return gathered(order.filter((fact) => parent.has(fact)), root);
}

// Where each fact of each group stands: circles, side by side in rows.
function placed(all, width) {
  const points = new Map();
  let [x, y, row] = [0, 0, 0];
  for (const group of all) {
    const radius = group.length === 1 ? 0 : Math.max(LEAST, (group.length * APART) / (2 * Math.PI));
    const flat = radius <= LEAST ? 2 * radius + 40 : 2 * (radius + LABEL);
    const [wide, high] = group.length <= 2 ? [2 * LABEL + 48, 34] : [2 * (radius + LABEL), flat];
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
  const first = facts.map((fact) => fact.first);
  let nodes = new Map();
  const name = (fact) => element("button", { type: "button", class: "plain",
    onclick: () => app.change({ fact }) }, element("bdi", {}, facts[fact].subject));

  function draw() {
    const width = Math.max(200, host.clientWidth);
    const { count, strongest } = matrix.pairs(state.layer, state.threshold, 240, first);
    const most = Math.min(90, Math.floor(((width / 2 - LABEL) * 2 * Math.PI) / APART));
    const kept = [];
    const inSight = new Set();
    for (const pair of strongest) {
      const more = [pair[0], pair[1]].filter((fact) => !inSight.has(fact));
      if (inSight.size + more.length > most) break;
      more.forEach((fact) => inSight.add(fact));
      kept.push(pair);
    }
    const { points, height } = placed(joined(kept, order), width);
    const picture = drawn("svg", { width, height: Math.max(height, 1), role: "img",
      "aria-label": "Facts that collide, joined by lines; the groups stand in words below." });
    for (const [i, j, there, back] of kept) {
      const [from, to] = [points.get(i), points.get(j)];
      picture.append(drawn("line", { class: "edge", x1: from.x, y1: from.y, x2: to.x, y2: to.y,
        "stroke-width": (0.6 + 2.4 * Math.min(1, Math.abs(there))).toFixed(2), onclick: () => onPin([i, j]) },
        drawn("title", {}, `${facts[i].subject} → ${facts[j].subject}: ${number(there, 3)}, back ${number(back, 3)}`)));
    }
    nodes = new Map();
    for (const [fact, { x, y, angle, radius }] of points) {
      const left = Math.cos(angle) < -1e-9;
      const turn = radius > LEAST ? (angle * 180) / Math.PI + (left ? 180 : 0) : 0;
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
    tell(count, kept, matrix.groups(state.layer, state.threshold, first, order), inSight.size);
  }

  function tell(count, kept, whole, inSight) {
    const among = whole.reduce((sum, group) => sum + group.length, 0);
    says.textContent = count
      ? `At layer ${layers[state.layer]}, ${counted(count, "pair")} of ${counted(among, "fact")} collide with p of at `
        + `least ${number(state.threshold)}, in ${counted(whole.length, "group")}.`
        + (kept.length < count ? ` Drawn are the strongest ${counted(kept.length, "pair")}, of ${counted(inSight, "fact")}.` : "")
      : `At layer ${layers[state.layer]} no two subjects collide with p of at least ${number(state.threshold)}.`;
    const [MOST, NAMES] = [12, 40];
    list.replaceChildren(...whole.slice(0, MOST).map((group) => element("li", {},
      `${counted(group.length, "fact")}: `,
      ...group.slice(0, NAMES).flatMap((fact, at) => [at ? ", " : "", name(fact)]),
      group.length > NAMES ? ` and ${group.length - NAMES} more` : null)),
      ...(whole.length > MOST ? [element("li", { class: "note" }, `and ${whole.length - MOST} more`)] : []));
  }

  app.on(["layer", "threshold"], draw);
  app.on(["fact"], () => nodes.forEach((node, fact) => node.classList.toggle("chosen", fact === state.fact)));
  whenLooksChange(host, draw);
}
