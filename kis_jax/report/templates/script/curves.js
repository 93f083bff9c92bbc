// Curves of several methods or models over one axis: a place is chosen, and all follow.

// Facts in words, the first of them; a saying is made of texts and of facts by their places.
function saying(parts) {
  return element("li", {}, ...parts.map((part) => {
    if (typeof part === "string") return part;
    const [before, subject, after, target] = data.facts[part];
    return words({ before, subject, after, target });
  }));
}

function panels(host, { axis, panels: all }, onPick) {
  return all.map((panel) => {
    const inside = element("div", { class: "chart" });
    host.append(element("div", {}, element("h3", {}, panel.name), inside));
    const drawing = chart(inside, { x: axis.places, log: axis.log, high: panel.high ?? null,
      label: `${panel.name}, by ${axis.name}`, scale: panel.scale ?? "linear", onPick });
    drawing.draw({
      lines: panel.lines,
      bands: panel.lines.filter((line) => line.low).map((line) =>
        ({ low: line.low, high: line.high, name: line.name, look: line.look.replace("s", "b") })),
      marks: panel.marks ?? [],
    });
    return drawing;
  });
}

function curves() {
  const { axis, start } = data;
  const app = watched({ place: start });
  const { state } = app;
  byId("atlas").hidden = false;
  document.querySelectorAll(".without-script").forEach((part) => { part.hidden = true; });
  byId("curve-names").replaceChildren(...legend(data.lines).children);
  const drawings = panels(byId("curve-panels"), data, (place) => app.change({ place }));
  const slider = byId("place");
  const to = (place) => app.change({ place: Math.max(0, Math.min(axis.places.length - 1, place)) });
  slider.addEventListener("input", () => to(Number(slider.value)));
  byId("place-before").addEventListener("click", () => to(state.place - 1));
  byId("place-after").addEventListener("click", () => to(state.place + 1));
  onKey({ "[": () => to(state.place - 1), "]": () => to(state.place + 1) });

  app.on(["place"], () => {
    const { place } = state;
    const name = axis.names[place];
    slider.value = place;
    slider.setAttribute("aria-valuetext", name);
    byId("place-name").textContent = name;
    byId("place-caption").textContent = data.captions[place];
    drawings.forEach((drawing) => drawing.cursor(place));
    byId("place-numbers").replaceChildren(...data.lines.map((line) => element("tr", {},
      element("th", { scope: "row" }, element("i", { class: line.look }), element("bdi", {}, line.name)),
      ...data.panels.map((panel) => element("td", { class: "n" },
        number(panel.lines.find((each) => each.name === line.name)?.values[place] ?? null, panel.digits))))));
    byId("place-says").replaceChildren(...(data.sayings?.[place] ?? []).map(saying));
    const inner = data.inner?.[place];
    byId("inner-panels").replaceChildren();
    if (inner) panels(byId("inner-panels"), inner, () => {});
    try {
      history.replaceState(null, "", `#at=${axis.places[place]}`);
    } catch { /* a page within another page has no address of its own */ }
  });
  const asked = axis.places.indexOf(Number(new URLSearchParams(location.hash.slice(1)).get("at") ?? NaN));
  if (asked >= 0) to(asked);
  app.everything();
}

curves();
