// The atlas of a scan: one layer is chosen, and everything on the page follows.

function atlas() {
  const { layers, measures, orders, names } = data;
  const facts = data.facts.map(([place, before, subject, after, target, relation, token, first], index) =>
    ({ index, number: place, before, subject, after, target, relation, token, first }));
  const n = facts.length;
  const matrix = superposition(data.superposition, n);
  const app = watched({
    layer: data.start.layer, order: "cluster", threshold: data.start.threshold,
    pointed: null, pinned: null, fact: 0, way: "there",
  });
  const { state } = app;
  byId("atlas").hidden = false;
  document.querySelectorAll(".static").forEach((part) => part.removeAttribute("open"));
  document.querySelectorAll(".without-script").forEach((part) => { part.hidden = true; });

  // Layers at a glance.
  const glance = measures.map((measure) => {
    const host = byId(`glance-${measure.key}`);
    const drawing = chart(host, {
      x: layers, label: `${measure.name} by layer, beside its controls`, scale: measure.scale,
      onPick: (layer) => app.change({ layer }),
    });
    const controls = Object.values(measure.controls);
    const lines = [...Object.entries(measure.controls).map(([key, values]) =>
      ({ values, look: `thin ${key}`, name: names[key] })),
    ...(measure.distinct ? [{ values: measure.distinct, look: "dashed s2", name: "each subject once" }] : []),
    { values: measure.facts, look: "s1", name: "facts" }];
    const ends = (pick, none) => layers.map((_, at) => {
      const known = finite(controls.map((values) => values[at]));
      return known.length ? pick(...known) : none;
    });
    const bands = controls.length
      ? [{ low: ends(Math.min, null), high: ends(Math.max, null), name: "controls" }] : [];
    drawing.draw({ lines, bands });
    return drawing;
  });
  const slider = byId("layer");
  slider.addEventListener("input", () => app.change({ layer: Number(slider.value) }));
  const step = (by) => () =>
    app.change({ layer: Math.max(0, Math.min(layers.length - 1, state.layer + by)) });
  byId("layer-before").addEventListener("click", step(-1));
  byId("layer-after").addEventListener("click", step(1));

  function atLayer() {
    const at = state.layer;
    slider.value = at;
    slider.setAttribute("aria-valuetext", `layer ${layers[at]}`);
    byId("layer-name").textContent = `Layer ${layers[at]}`;
    glance.forEach((drawing) => drawing.cursor(at));
    byId("layer-numbers").replaceChildren(...measures.map((measure) => element("tr", {},
      element("th", { scope: "row" }, measure.name),
      ...[measure.facts, measure.distinct, ...Object.keys(names).map((key) => measure.controls[key])]
        .filter((_, column) => column !== 1 || measures[0].distinct)
        .map((values) => element("td", { class: "n" }, values ? number(values[at], measure.digits) : "–")))));
    pairList();
  }
  app.on(["layer"], atLayer);

  // The matrix, and what is pointed at or pinned in words.
  const map = heatMap(byId("matrix"), app, matrix, { orders, breaks: { relation: breaks(facts, orders.relation) } }, {
    onPoint: (place) => app.change({ pointed: place }),
    onPin: (place) => {
      app.change({ pinned: place });
      if (place) app.change({ fact: map.facts(place)[0] });
    },
  });
  // Pins a pair of facts, wherever it stands in the order.
  function pin(pair) {
    const place = map.placeOf(pair);
    map.reveal(place);
    app.change({ pinned: place, fact: pair[0] });
  }

  function pairWords(i, j) {
    const same = facts[i].first === facts[j].first;
    return [
      element("p", {}, "An edit of ", element("span", { class: "index" }, `${facts[i].number} `), words(facts[i])),
      element("p", {}, "also lands on ", element("span", { class: "index" }, `${facts[j].number} `), words(facts[j]),
        same ? element("span", { class: "tag" }, i === j ? "itself" : "same subject") : null),
      element("p", {}, "p = ", element("b", {}, number(matrix.at(state.layer, i, j), 3)),
        ` there, ${number(matrix.at(state.layer, j, i), 3)} back`),
    ];
  }

  function readout() {
    const place = state.pointed ?? state.pinned;
    byId("pair").replaceChildren(...(place ? pairWords(...map.facts(place))
      : [element("p", { class: "note" }, "Point at the matrix, or go there by Tab and move by the arrows.")]));
    const pinned = byId("pinned");
    pinned.hidden = !state.pinned;
    if (!state.pinned) return;
    const [i, j] = map.facts(state.pinned);
    byId("pinned-pair").replaceChildren(element("bdi", {}, facts[i].subject), " → ",
      element("bdi", {}, facts[j].subject), `: p = ${number(matrix.at(state.layer, i, j), 3)}, back `
        + number(matrix.at(state.layer, j, i), 3));
  }
  app.on(["layer", "pointed", "pinned", "order"], readout);
  byId("unpin").addEventListener("click", () => app.change({ pinned: null }));
  byId("zoom-in").addEventListener("click", () => map.zoom(1.5));
  byId("zoom-out").addEventListener("click", () => map.zoom(1 / 1.5));
  byId("zoom-whole").addEventListener("click", () => map.whole());

  const orderBox = byId("order");
  orderBox.addEventListener("change", () => {
    const pair = state.pinned && map.facts(state.pinned);
    app.change({ order: orderBox.value, pointed: null });
    if (pair) pin(pair);
  });
  const threshold = byId("threshold");
  threshold.addEventListener("input", () => app.change({ threshold: Number(threshold.value) }));
  function atThreshold() {
    threshold.value = state.threshold;
    byId("threshold-value").textContent = number(state.threshold);
    pairList();
  }
  app.on(["threshold"], atThreshold);

  function pairList() {
    const MOST = 12;
    const { count, strongest } = matrix.pairs(state.layer, state.threshold, MOST);
    byId("pairs-count").textContent = `${counted(count, "pair")} at ${number(state.threshold)} or above`
      + (count > MOST ? `; the strongest ${MOST}:` : count ? ":" : ".");
    byId("pairs").replaceChildren(...strongest.map(([i, j, there, back]) => element("li", {},
      element("button", { type: "button", class: "plain", onclick: () => pin([i, j]) },
        element("bdi", {}, facts[i].subject), " → ", element("bdi", {}, facts[j].subject)),
      facts[i].first === facts[j].first ? element("span", { class: "tag" }, "same subject") : null,
      element("span", { class: "n" }, `${number(there, 3)}, back ${number(back, 3)}`))));
  }

  factView(app, matrix, { layers, facts, norms: data.norms, controls: data.strongest, names }, { onPin: pin });
  byId("way").addEventListener("change", (event) => app.change({ way: event.target.value }));
  searchBox(byId("search"), byId("found"), facts, (fact) => app.change({ fact }));
  graphView(app, matrix, { layers, facts, order: orders.cluster }, { onPin: pin });

  onKey({ "[": step(-1), "]": step(1), "/": () => byId("search").focus() });
  if (data.start.pair?.every((fact) => fact !== null)) pin(data.start.pair);
  shared(app, { layers, orders, n, orderBox, pin, pinnedFacts: () => state.pinned && map.facts(state.pinned) });
  app.everything();
  map.fit();
}

// Where another relation begins, in an order by relation.
const breaks = (facts, order) => order.map((_, at) => at)
  .filter((at) => at > 0 && facts[order[at]].relation !== facts[order[at - 1]].relation);

// What is looked at stands in the address, to be shared: #layer=12&fact=3&order=cluster.
function shared(app, { layers, orders, n, orderBox, pin, pinnedFacts }) {
  const { state } = app;
  const asked = new URLSearchParams(location.hash.slice(1));
  const whole = (name, most) => {
    const value = Number(asked.get(name) ?? NaN);
    return Number.isInteger(value) && value >= 0 && value < most ? value : null;
  };
  const layer = layers.indexOf(Number(asked.get("layer") ?? NaN));
  const share = Number(asked.get("threshold") ?? NaN);
  const [fact, i, j] = [whole("fact", n), whole("edit", n), whole("touched", n)];
  if (layer >= 0) app.change({ layer });
  if (share >= 0 && share <= 1) app.change({ threshold: share });
  if (Object.hasOwn(orders, asked.get("order") ?? "")) {
    orderBox.value = asked.get("order");
    app.change({ order: orderBox.value });
  }
  if (i !== null && j !== null) pin([i, j]);
  if (fact !== null) app.change({ fact });
  let waiting = null;
  app.on(["layer", "threshold", "order", "fact", "pinned"], () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const pair = pinnedFacts();
      const parts = new URLSearchParams({ layer: layers[state.layer], fact: state.fact, order: state.order,
        threshold: state.threshold, ...(pair ? { edit: pair[0], touched: pair[1] } : {}) });
      try {
        history.replaceState(null, "", `#${parts}`);
      } catch { /* a page within another page has no address of its own */ }
    }, 300);
  });
}

atlas();
