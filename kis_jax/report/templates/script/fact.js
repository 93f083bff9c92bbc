// One fact: search, its strongest neighbors over all layers, its rank among controls, its cost.

// A fact in words, as `macros.html` writes it.
function words(fact) {
  return element("span", { class: "fact", dir: "auto" }, fact.before,
    element("mark", {}, element("bdi", {}, fact.subject)), `${fact.after} `,
    element("b", {}, element("bdi", {}, fact.target)));
}

// A search by subject: what contains the text, those that begin with it first.
function found(facts, text) {
  const wanted = text.trim().toLowerCase();
  const place = (fact) => fact.subject.toLowerCase().indexOf(wanted);
  return facts.filter((fact) => place(fact) >= 0 || String(fact.number) === wanted)
    .sort((one, other) => (String(other.number) === wanted) - (String(one.number) === wanted)
      || (place(one) > 0) - (place(other) > 0) || one.index - other.index);
}

function searchBox(input, list, facts, onChoose) {
  const MOST = 8;
  const choose = (fact) => {
    list.replaceChildren();
    input.value = "";
    onChoose(fact.index);
  };
  const show = () => {
    const all = input.value.trim() ? found(facts, input.value) : [];
    list.replaceChildren(
      ...all.slice(0, MOST).map((fact) => element("li", {},
        element("button", { type: "button", onclick: () => choose(fact) },
          element("span", { class: "index" }, `${fact.number} `), words(fact)))),
      ...(all.length > MOST ? [element("li", { class: "note" }, `and ${all.length - MOST} more`)] : []),
      ...(input.value.trim() && !all.length
        ? [element("li", { class: "note" }, "No subject has these letters.")] : []),
    );
  };
  input.addEventListener("input", show);
  input.addEventListener("keydown", (event) => {
    const [first] = found(facts, input.value);
    if (event.key === "Enter" && input.value.trim() && first) choose(first);
    if (event.key === "Escape") {
      input.value = "";
      show();
    }
  });
}

// Strongest neighbors of a fact: by their largest p at any layer, one way or the other.
function neighbors(matrix, layers, index, back, most = SERIES) {
  const lines = [];
  for (let other = 0; other < matrix.n; other++) {
    if (other === index) continue;
    const values = layers.map((_, layer) =>
      (back ? matrix.at(layer, other, index) : matrix.at(layer, index, other)));
    let at = -1;
    values.forEach((value, layer) => {
      if (Number.isFinite(value) && !(Math.abs(value) <= Math.abs(values[at]))) at = layer;
    });
    if (at >= 0) lines.push({ other, values, largest: values[at], at });
  }
  return lines.sort((one, other) => Math.abs(other.largest) - Math.abs(one.largest)).slice(0, most);
}

// How many of a sorted list are below a value.
const below = (sorted, value) => sorted.filter((other) => other < value).length;

function factView(app, matrix, { layers, facts, norms, controls, names }, { onPin }) {
  const { state } = app;
  const [host, legendHost, sayings] = ["fact-chart", "fact-lines", "fact-says"].map(byId);
  const lines = chart(host, {
    x: layers, label: "p between this fact and its strongest neighbors, by layer", height: 220,
    onPick: (layer) => app.change({ layer }),
  });
  let shown = [];

  function strongest(layer, index) {
    let best = { value: 0, other: null };
    for (let other = 0; other < matrix.n; other++) {
      const value = other === index ? NaN : matrix.at(layer, index, other);
      if (Math.abs(value) >= Math.abs(best.value)) best = { value, other };
    }
    return best;
  }

  function fact() {
    byId("fact-name").replaceChildren(element("span", { class: "index" }, `${facts[state.fact].number} `),
      words(facts[state.fact]));
    byId("fact-token").replaceChildren(
      "relation ", element("bdi", {}, facts[state.fact].relation), ", key at the token ",
      element("code", {}, element("bdi", {}, facts[state.fact].token)));
    shown = neighbors(matrix, layers, state.fact, state.way === "back");
    lines.draw({ lines: shown.map(({ values, other }, at) =>
      ({ values, look: `s${at + 1}`, name: facts[other].subject })) });
    atLayer();
  }

  function atLayer() {
    const { layer, fact: index } = state;
    lines.cursor(layer);
    legendHost.replaceChildren(...shown.map(({ other, values, largest, at }, place) => element("tr", {},
      element("th", { scope: "row" }, element("i", { class: `s${place + 1}` }),
        element("button", { type: "button", class: "plain", onclick: () => app.change({ fact: other }) },
          element("bdi", {}, facts[other].subject)),
        facts[other].first === facts[index].first ? element("span", { class: "tag" }, "same subject") : null),
      element("td", { class: "n" }, element("button", { type: "button", class: "plain",
        onclick: () => onPin(state.way === "back" ? [other, index] : [index, other]) }, number(values[layer], 3))),
      element("td", { class: "n" }, number(largest, 3)),
      element("td", { class: "n" }, element("button", { type: "button", class: "plain",
        onclick: () => app.change({ layer: at }) }, String(layers[at]))))));
    sayings.replaceChildren(...says(layer, index).map((line) => element("li", {}, ...line)));
  }

  function says(layer, index) {
    const best = strongest(layer, index);
    if (best.other === null) return [["No finite number at this layer."]];
    const all = facts.filter((fact) => fact.index !== index)
      .map((fact) => Math.abs(strongest(layer, fact.index).value));
    const size = Math.abs(best.value);
    let squares = 0;
    let over = 0;
    let many = 0;
    for (let other = 0; other < matrix.n; other++) {
      const value = other === index ? NaN : matrix.at(layer, index, other);
      if (Number.isNaN(value)) continue;
      squares += value * value;
      many += 1;
      over += Math.abs(value) >= state.threshold;
    }
    const lines = [[
      `At layer ${layers[layer]} its strongest collision is p = ${number(best.value, 3)}, with `,
      element("bdi", {}, facts[best.other].subject),
      `: stronger than that of ${below(all, size)} of the ${counted(all.length, "other fact")}`,
      ...Object.entries(controls).map(([name, at]) =>
        ` and of ${below(at[layer], size)} of ${at[layer].length} keys at ${names[name]}`), "."]];
    lines.push([`Were it edited, the others would move by ${number(100 * Math.sqrt(squares / many), 1)} % of the change asked `
      + `for (root mean square), ${counted(over, "of them", "of them")} by at least ${number(100 * state.threshold, 0)} %`
      + (norms ? `, and ordinary text by ${number(100 / norms[layer][index], 2)} %.` : ".")]);
    return lines;
  }

  app.on(["fact", "way"], fact);
  app.on(["layer", "threshold"], atLayer);
}
