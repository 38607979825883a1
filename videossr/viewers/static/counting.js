// CountingViewer: frames with outlines of the shapes, the frames that hold some, and a place to count oneself.

/** Outlines over a canvas, in the frame's own pixels. */
function overlay(info) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "vssr-outlines");
  svg.setAttribute("viewBox", `0 0 ${info.width} ${info.height}`);
  svg.setAttribute("aria-hidden", "true");
  const show = (shapes) => svg.replaceChildren(...shapes.flatMap((shape) => ["vssr-halo", "vssr-edge"].map((kind) => {
    const line = document.createElementNS(SVG, "polygon");
    line.setAttribute("points", shape.points.map((point) => point.join(",")).join(" "));
    line.setAttribute("class", kind);
    return line;
  })));
  return { svg, show };
}

/** A number with minus and plus. */
function counter(name, value, onchange) {
  const input = el("input", { type: "number", min: 0, max: 99, value, "aria-label": `Your count of ${name}`, onchange: () => put(Number(input.value)) });
  const put = (number) => onchange(clamp(Math.round(number) || 0, 0, 99));
  const step = (by, text, word) => el("button", { type: "button", "aria-label": `${word} ${name.replace(/s$/, "")}`, onclick: () => put(Number(input.value) + by) }, text);
  const note = el("span", { class: "vssr-truth-count" });
  const node = el("div", { class: "vssr-counter" }, el("span", { class: "vssr-kind" }, name), step(-1, "−", "One fewer"), input, step(1, "+", "One more"), note);
  return { node, set: (number) => (input.value = number), tell: (text) => (note.textContent = text) };
}

async function render({ model, el: place }) {
  return guarded(place, async () => {
    const info = model.get("data"), { tracks } = await openReel(info.reel), pictures = tracks.seen;
    const said = announcer(), root = shell(info, "Counting viewer");
    const keep = (name, value) => { model.set(name, value); model.save_changes(); };
    const on = (k) => info.shapes.filter((shape) => shape.frame === k);
    const holding = [...new Set(info.shapes.map((shape) => shape.frame))].sort((a, b) => a - b);
    const told = (k) => {
      const kinds = new Map();
      on(k).forEach((shape) => kinds.set(shape.kind, (kinds.get(shape.kind) ?? 0) + 1));
      return [...kinds].map(([kind, count]) => plural(count, kind)).join(", ");
    };
    const canvas = canvasFor(pictures[0]), lines = overlay(info), shown = () => model.get("show_truth");
    const chips = holding.map((k) => el("button", { type: "button", class: "vssr-chip", "data-frame": k, onclick: () => play.seek(k), "aria-label": `Frame ${k + 1}: ${told(k)}` },
      canvasFor(pictures[k], { role: null, "aria-hidden": "true" }), el("span", {}, `${seconds(info.times[k])}`), el("span", { class: "vssr-told" }, told(k))));
    const jump = (by) => {
      const ahead = holding.filter((k) => (by > 0 ? k > play.frame : k < play.frame));
      if (ahead.length) play.seek(by > 0 ? ahead[0] : ahead[ahead.length - 1]);
      said.say(ahead.length ? `Frame ${play.frame + 1}: ${told(play.frame)}` : "No more frames with shapes that way");
    };
    const draw = (k) => {
      paint(canvas, pictures[k]);
      lines.show(shown() ? on(k) : []);
      canvas.setAttribute("aria-label", `Frame ${k + 1}, ${seconds(info.times[k])}${shown() && on(k).length ? `, ${told(k)}` : ""}`);
      chips.forEach((chip) => chip.setAttribute("aria-current", String(Number(chip.dataset.frame) === k)));
    };
    const play = player({
      root, times: info.times, frame: model.get("frame"), draw, rest: (k) => keep("frame", k), describe: (k) => (shown() ? told(k) : ""),
      keys: (event) => {
        const by = { n: 1, p: -1 }[event.key.toLowerCase()];
        if (!by || !shown() || !holding.length) return false;
        jump(by);
        return true;
      },
    });
    const counters = info.names.map((name, which) => counter(name, model.get("counts")[which], (value) => {
      const counts = [...model.get("counts")];
      counts[which] = value;
      counters[which].set(value);
      keep("counts", counts);
    }));
    const truth = tick("Show the truth", shown(), (value) => keep("show_truth", value));
    const reward = el("b"), strict = el("b");
    const strip = el("div", { class: "vssr-chips", role: "group", "aria-label": "Frames with shapes" }, chips);
    const hint = holding.length ? el("p", { class: "vssr-keys" }, el("kbd", {}, "n"), " and ", el("kbd", {}, "p"), " go to the next and the previous frame with shapes.") : null;
    root.append(
      el("div", { class: "vssr-stage" }, el("figure", {}, el("div", { class: "vssr-overlaid" }, canvas, lines.svg))), play.node, strip, hint ?? "",
      el("div", { class: "vssr-counters", role: "group", "aria-label": "Your counts" }, counters.map((one) => one.node)),
      el("div", { class: "vssr-row" }, truth.node, el("span", { class: "vssr-score" }, el("span", {}, "your reward"), reward, el("span", {}, "strict"), strict)),
      said.node,
    );
    const table = replyTable(info.rows, (row) => row.value && el("button", { type: "button", "aria-label": `Take the counts of ${row.name}`, onclick: () => keep("counts", row.value) }, "Take"));
    if (table) root.append(table);
    const scored = () => {
      reward.textContent = model.get("reward").toFixed(2);
      strict.textContent = model.get("strict").toFixed(2);
      said.say(`Reward ${model.get("reward").toFixed(2)}`);
    };
    const recounted = () => counters.forEach((one, which) => one.set(model.get("counts")[which]));
    const revealed = () => {
      truth.set(shown());
      strip.hidden = !shown() || !holding.length;
      if (hint) hint.hidden = !shown();
      counters.forEach((one, which) => one.tell(shown() ? `truth ${info.truth[which]}` : ""));
      draw(play.frame);
    };
    const moved = () => model.get("frame") !== play.frame && !play.playing && play.seek(model.get("frame"));
    model.on("change:reward change:strict", scored);
    model.on("change:counts", recounted);
    model.on("change:show_truth", revealed);
    model.on("change:frame", moved);
    scored();
    revealed();
    place.append(root);
    return () => {
      play.free(); said.free();
      model.off("change:reward change:strict", scored);
      model.off("change:counts", recounted);
      model.off("change:show_truth", revealed);
      model.off("change:frame", moved);
    };
  });
}
export default { render };
