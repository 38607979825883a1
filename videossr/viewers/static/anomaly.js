// AnomalyViewer: the perturbed clip, its original, and intervals on a timeline.

const VIEWS = { seen: "As the model sees it", both: "Beside the original", difference: "Difference" };

/** One line of the timeline: a name, a bar, its seconds. */
function spanRow(name, kind, at) {
  const bar = el("div", { class: `vssr-bar vssr-${kind}` });
  const note = el("span", { class: "vssr-note" });
  const track = el("div", { class: "vssr-track" }, bar, note);
  const node = el("div", { class: `vssr-line vssr-line-${kind}` }, el("span", { class: "vssr-name", title: name }, name), track);
  const set = (span) => {
    bar.hidden = !span;
    note.textContent = span ? `${span[0].toFixed(1)}–${seconds(span[1])}` : "no interval";
    const [start, end] = span ? span.map((time) => clamp(at(time), 0, 1)) : [0, 0];
    bar.style.left = `${100 * start}%`;
    bar.style.width = `${100 * (end - start)}%`;
    const left = end > 0.78 && start > 0.22;
    note.style.left = left ? "auto" : `${100 * end}%`;
    note.style.right = left ? `${100 * (1 - start)}%` : "auto";
    note.classList.toggle("vssr-inside", end > 0.78 && start <= 0.22);
  };
  return { node, track, bar, note, set };
}

/** The line of the person who watches: drag to answer, drag an edge or the middle to correct, or use the two sliders. */
function guessRow(model, info, at, say) {
  const row = spanRow("you", "guess", at);
  const first = info.times[0], tenth = (time) => Math.round(10 * clamp(time, first, info.end)) / 10;
  const guess = () => model.get("guess");
  const set = (start, end) => {
    const pair = [tenth(Math.min(start, end)), tenth(Math.max(start, end))];
    model.set("guess", pair);
    model.save_changes();
  };
  const handles = ["start", "end"].map((edge, which) =>
    el("div", {
      class: `vssr-handle vssr-handle-${edge}`, role: "slider", tabindex: 0, "aria-label": `Your ${edge}`, "aria-valuemin": first, "aria-valuemax": info.end,
      onkeydown: (event) => {
        const step = event.shiftKey ? 1 : 0.1;
        const moves = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, Home: -Infinity, End: Infinity };
        if (!(event.key in moves) || !guess()) return;
        event.preventDefault();
        const pair = [...guess()];
        const bounds = which ? [pair[0], info.end] : [first, pair[1]];
        pair[which] = clamp(pair[which] + moves[event.key], ...bounds);
        set(...pair);
      },
    }));
  row.bar.append(...handles);
  const timeAt = (event) => {
    const box = row.track.getBoundingClientRect();
    return first + clamp((event.clientX - box.left) / box.width, 0, 1) * (info.end - first);
  };
  let drag = null;
  row.track.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault();
    const time = timeAt(event), span = guess(), which = handles.indexOf(event.target);
    if (which >= 0) drag = (now) => set(span[1 - which], now);
    else if (event.target === row.bar) drag = (now) => {
      const shift = clamp(now - time, first - span[0], info.end - span[1]);
      set(span[0] + shift, span[1] + shift);
    };
    else drag = (now) => set(time, now);
    if (which >= 0) handles[which].focus();
    row.track.setPointerCapture(event.pointerId);
  });
  row.track.addEventListener("pointermove", (event) => drag && drag(timeAt(event)));
  for (const name of ["pointerup", "pointercancel"]) row.track.addEventListener(name, () => (drag = null));
  const update = () => {
    const span = guess();
    row.set(span);
    if (!span) row.note.textContent = "drag here to answer";
    handles.forEach((handle, which) => {
      if (!span) return;
      handle.setAttribute("aria-valuenow", span[which]);
      handle.setAttribute("aria-valuetext", seconds(span[which]));
    });
  };
  model.on("change:guess", update);
  update();
  return { ...row, put: (which, time) => {
    const pair = guess() ? [...guess()] : which ? [first, time] : [time, info.end];
    pair[which] = time;
    set(...pair);
    say(`Your ${which ? "end" : "start"} is ${seconds(tenth(time))}`);
  }, free: () => model.off("change:guess", update) };
}

function stage(tracks, info) {
  const main = canvasFor(tracks.seen[0]), second = tracks.original && canvasFor(tracks.original[0], { "aria-label": "The original frame" });
  const words = el("figcaption"), side = second && el("figure", {}, second, el("figcaption", {}, "Original"));
  const node = el("div", { class: "vssr-stage" }, el("figure", {}, main, words), side);
  return { node, draw: (view, frame) => {
    const apart = view === "difference" && second;
    paint(main, tracks.seen[frame], apart ? tracks.original[frame] : null);
    if (second) {
      side.hidden = view !== "both";
      if (!side.hidden) paint(second, tracks.original[frame]);
    }
    words.textContent = apart ? "Difference from the original: black where nothing changed" : "As the model sees it";
    main.setAttribute("aria-label", `${words.textContent}, frame ${frame + 1}, ${seconds(info.times[frame])}`);
  } };
}

/** Bars of truth, person and models over one axis, with a line where the player is. */
function timeline(model, info, at, guess) {
  const truth = spanRow("truth", "truth", at);
  truth.set(info.truth);
  const decoys = info.decoys.map(([name, span]) => {
    const line = spanRow(name, "decoy", at);
    line.set(span);
    return line.node;
  });
  const models = info.rows.map((row) => {
    const line = spanRow(row.name, "prediction", at);
    line.set(row.value);
    return line;
  });
  const head = el("div", { class: "vssr-playhead", "aria-hidden": "true" });
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const mark = el("span", {}, seconds(info.times[0] + share * (info.end - info.times[0])));
    mark.style.left = `${100 * share}%`;
    return mark;
  });
  const node = el("div", { class: "vssr-timeline", role: "group", "aria-label": "Timeline" },
    truth.node, decoys, guess.node, models.map((line) => line.node), el("div", { class: "vssr-axis", "aria-hidden": "true" }, ticks), el("div", { class: "vssr-over" }, head));
  return { node, truths: [truth.node, ...decoys], moveTo: (time) => (head.style.left = `${100 * clamp(at(time), 0, 1)}%`) };
}

async function render({ model, el: place }) {
  return guarded(place, async () => {
    const info = model.get("data"), { tracks } = await openReel(info.reel);
    const at = (time) => (time - info.times[0]) / (info.end - info.times[0]);
    const said = announcer(), root = shell(info, "Anomaly viewer"), screen = stage(tracks, info);
    const guess = guessRow(model, info, at, said.say), lines = timeline(model, info, at, guess);
    const keep = (name, value) => { model.set(name, value); model.save_changes(); };
    const edge = (k) => (k < info.times.length ? info.times[k] : info.end);
    const play = player({
      root, times: info.times, frame: model.get("frame"),
      draw: (k) => { screen.draw(model.get("view"), k); lines.moveTo(info.times[k]); },
      rest: (k) => keep("frame", k),
      keys: (event) => {
        if (event.key === "[") guess.put(0, edge(play.frame));
        else if (event.key === "]") guess.put(1, edge(play.frame + 1));
        else return false;
        return true;
      },
    });
    const views = choice("View", Object.entries(VIEWS).filter(([key]) => key === "seen" || tracks.original), model.get("view"), (view) => keep("view", view));
    const truth = tick("Show the truth", model.get("show_truth"), (on) => keep("show_truth", on));
    const press = (text, key, act) => el("button", { type: "button", onclick: act }, text, el("kbd", { "aria-hidden": "true" }, key));
    const score = el("b"), exact = el("span");
    root.append(
      screen.node, play.node, lines.node,
      el("div", { class: "vssr-row" },
        press("Starts here", "[", () => guess.put(0, edge(play.frame))),
        press("Ends here", "]", () => guess.put(1, edge(play.frame + 1))),
        el("button", { type: "button", onclick: () => { keep("guess", null); said.say("Your interval is gone"); } }, "Clear"),
        el("span", { class: "vssr-score" }, el("span", {}, "your tIoU"), score, exact),
      ),
      el("div", { class: "vssr-row" }, views.node, truth.node),
      said.node,
    );
    const table = replyTable(info.rows);
    if (table) root.append(table);

    const scored = () => {
      const tiou = model.get("tiou");
      score.textContent = tiou == null ? "–" : tiou.toFixed(2);
      exact.textContent = model.get("strict") ? "exact" : "";
      if (tiou != null) said.say(`Your tIoU is ${tiou.toFixed(2)}`);
    };
    const redraw = () => {
      views.set(model.get("view"));
      truth.set(model.get("show_truth"));
      for (const line of lines.truths) line.hidden = !model.get("show_truth");
      screen.draw(model.get("view"), play.frame);
    };
    const jump = () => model.get("frame") !== play.frame && !play.playing && play.seek(model.get("frame"));
    model.on("change:tiou change:strict", scored);
    model.on("change:view change:show_truth", redraw);
    model.on("change:frame", jump);
    redraw();
    scored();
    place.append(root);
    return () => {
      play.free(); guess.free(); said.free();
      model.off("change:tiou change:strict", scored);
      model.off("change:view change:show_truth", redraw);
      model.off("change:frame", jump);
    };
  });
}
export default { render };
