// The groups of a run: filters, a line over the steps, the list, and one group beside its video.

/** The rewards of a group as dots from 0 to 1, and their mean as a tick. */
function dots(rewards) {
  const svg = shape("svg", { class: "vssr-dots", viewBox: "0 0 150 18", "aria-hidden": "true" });
  const at = (value) => 6 + 138 * clamp(value, 0, 1);
  svg.append(shape("line", { x1: at(0), x2: at(1), y1: 9, y2: 9 }));
  for (const value of rewards) svg.append(shape("circle", { cx: at(value), cy: 9, r: 4 }));
  const mean = rewards.reduce((sum, value) => sum + value, 0) / Math.max(1, rewards.length);
  svg.append(shape("line", { class: "vssr-tickmark", x1: at(mean), x2: at(mean), y1: 2, y2: 16 }));
  return svg;
}

/** An advantage as a bar to the right (better than the group) or to the left. */
function bar(value) {
  const svg = shape("svg", { class: "vssr-bar", viewBox: "0 0 110 12", "aria-hidden": "true" });
  const length = (52 * Math.min(3, Math.abs(value ?? 0))) / 3;
  svg.append(shape("line", { x1: 55, x2: 55, y1: 0, y2: 12 }));
  svg.append(shape("rect", { class: value < 0 ? "vssr-minus" : "vssr-plus", x: value < 0 ? 55 - length : 55, y: 2.5, width: length, height: 7, rx: 2 }));
  return svg;
}

/** Mean reward over the steps as bars, the share of silent groups hanging below; a part is chosen with the pointer. */
function timeline(choose) {
  const svg = shape("svg", { class: "vssr-timeline", viewBox: "0 0 600 64", preserveAspectRatio: "none", role: "img" });
  const place = el("div", {});
  let bins = [], from = null;
  const binAt = (event) => {
    const box = svg.getBoundingClientRect();
    return clamp(Math.floor(((event.clientX - box.left) / box.width) * bins.length), 0, bins.length - 1);
  };
  const range = (a, b) => [bins[Math.min(a, b)].first, bins[Math.max(a, b)].last];
  svg.addEventListener("pointerdown", (event) => {
    if (!bins.length) return;
    from = binAt(event);
    svg.setPointerCapture(event.pointerId);
    draw(range(from, from));
  });
  svg.addEventListener("pointermove", (event) => { if (from != null) draw(range(from, binAt(event))); });
  svg.addEventListener("pointerup", (event) => {
    if (from == null) return;
    choose(range(from, binAt(event)));
    from = null;
  });
  function draw(steps) {
    const [low, high] = steps.length ? steps : [-Infinity, Infinity];
    const width = 600 / Math.max(1, bins.length), inner = Math.max(0.6, width * 0.82);
    svg.replaceChildren(
      ...bins.flatMap((bin, place) => {
        const out = bin.last < low || bin.first > high ? " vssr-out" : "";
        const x = place * width + (width - inner) / 2;
        return [
          shape("rect", { class: `vssr-mean${out}`, x, y: 46 - 44 * bin.mean, width: inner, height: 44 * bin.mean }),
          shape("rect", { class: `vssr-still${out}`, x, y: 48, width: inner, height: 15 * bin.silent }),
        ];
      }),
      shape("line", { class: "vssr-axis", x1: 0, x2: 600, y1: 47, y2: 47 }),
    );
  }
  return {
    node: place,
    set(next, steps) {
      bins = next;
      // bars stand in the middle of their steps
      const ticks = bins.length ? stepTicks(bins[0].first, bins.at(-1).last).map(([step]) => [step, (bins.findIndex((bin) => bin.last >= step) + 0.5) / bins.length]) : [];
      place.replaceChildren(plot(svg, "mean reward", REWARD.map(([text, share]) => [text, 2 / 64 + (share * 44) / 64]), ticks));
      draw(steps);
      const end = bins.length ? `steps ${bins[0].first} to ${bins.at(-1).last}; mean reward ${bins[0].mean.toFixed(2)} at first, ${bins.at(-1).mean.toFixed(2)} at last` : "no steps yet";
      svg.setAttribute("aria-label", `Reward over steps: ${end}`);
    },
  };
}

/** The replies of a group, best first. */
function replies(rows) {
  const sorted = rows.map((row, place) => ({ ...row, place: place + 1 })).sort((a, b) => (b.reward ?? -1) - (a.reward ?? -1));
  const number = (value) => (value == null ? "–" : value.toFixed(2).replace("-", "−"));
  return el(
    "div",
    { class: "vssr-scroll vssr-wide", tabindex: "0", role: "region", "aria-label": "Replies" },
    el(
      "table",
      { class: "vssr-replies vssr-rollouts" },
      el("thead", {}, el("tr", {}, ["", "reply", "read as", "reward", "advantage", ""].map((text) => el("th", { scope: "col" }, text)))),
      el("tbody", {}, sorted.map((row) =>
        el("tr", {},
          el("td", { class: "vssr-number" }, String(row.place)),
          el("td", { class: "vssr-text" }, replyText(row.text)),
          el("td", {}, row.parsed ? row.read : el("span", { class: "vssr-unread" }, "unreadable")),
          el("td", { class: "vssr-number" }, number(row.reward)),
          el("td", { class: "vssr-number" }, number(row.advantage)),
          el("td", {}, bar(row.advantage))))),
    ),
  );
}

async function render({ model, el: place }) {
  return guarded(place, async () => {
    const info = model.get("data");
    const set = (values) => { for (const [name, value] of Object.entries(values)) model.set(name, value); model.save_changes(); };
    const said = announcer();
    const tasks = picker("Task", (task) => set({ task }));
    const show = picker("Show", (value) => set({ show: value }));
    const sort = picker("Sort by", (value) => set({ sort: value }));
    const find = finder("Find", "answer or file", (text) => set({ text }));
    const turner = pager((page) => set({ page }));
    const line = timeline((steps) => set({ steps }));
    const first = el("input", { type: "number", min: 0, "aria-label": "First step", onchange: typed });
    const last = el("input", { type: "number", min: 0, "aria-label": "Last step", onchange: typed });
    const whole = el("button", { type: "button", onclick: () => set({ steps: [] }) }, "All steps");
    const state = el("span", { class: "vssr-push" });
    function typed() {
      const [low, high] = [Number(first.value), Number(last.value)];
      set({ steps: low <= high ? [low, high] : [high, low] });
    }
    const badges = (row) => [
      Math.max(...row.rewards) - Math.min(...row.rewards) < 1e-6 ? el("span", { class: "vssr-badge" }, "zero variance") : null,
      row.unread ? el("span", { class: "vssr-badge" }, `${row.unread} unreadable`) : null,
    ];
    const list = rowTable({
      label: "Groups of rollouts",
      open: (row) => { asked = true; set({ opened: row.number === model.get("opened") ? -1 : row.number }); },
      turn: (by) => turner.move(by),
      columns: [
        { title: "step", cell: (row) => String(row.step) },
        { title: "task", cell: (row) => el("span", { class: "vssr-name" }, row.task) },
        { title: "type", cell: (row) => row.type },
        { title: "true answer", cell: (row) => row.answer, name: "vssr-mono" },
        { title: "rewards, 0 to 1", cell: (row) => dots(row.rewards) },
        { title: "mean", number: true, cell: (row) => (row.rewards.reduce((sum, value) => sum + value, 0) / Math.max(1, row.rewards.length)).toFixed(2) },
        { title: "", cell: badges },
      ],
    });
    const detail = el("section", { class: "vssr-detail" });
    const inside = el("div", { class: "vssr-inside" });
    const legend = el("div", { class: "vssr-legend" }, el("span", {}, el("i"), "mean reward"), el("span", {}, el("i", { class: "vssr-grey" }), "share of groups with zero variance"));
    const root = shell(
      info, "Rollout browser",
      el("div", { class: "vssr-row" }, tasks.node, show.node, sort.node, find.node),
      line.node,
      el("div", { class: "vssr-row vssr-steps" }, legend, el("span", { class: "vssr-field vssr-push" }, "Steps", first, "to", last), whole),
      list.node,
      el("div", { class: "vssr-row" }, turner.node, el("span", { class: "vssr-keys" }, el("kbd", {}, "↑"), " ", el("kbd", {}, "↓"), " rows, ", el("kbd", {}, "Enter"), " open, ", el("kbd", {}, "PgDn"), " next page"), state),
      detail, inside, said.node,
    );

    function redraw() {
      const view = model.get("view"), task = model.get("task"), steps = model.get("steps");
      root.style.setProperty("--vssr-task", task ? paintOf(view.colors[task]) : "var(--vssr-ink)");
      tasks.set([["", "all"], ...view.tasks], task);
      show.set(info.show, model.get("show"));
      sort.set(info.sort, model.get("sort"));
      find.set(model.get("text"));
      line.set(view.timeline, steps);
      const span = steps.length ? steps : view.timeline.length ? [view.timeline[0].first, view.timeline.at(-1).last] : [0, 0];
      [first.value, last.value] = span;
      list.set(view.rows.map((row) => ({ ...row, color: view.colors[row.task] })), model.get("opened"));
      turner.set(model.get("page"), view.pages);
      const reached = view.timeline.length ? view.timeline.at(-1).last : 0;
      state.textContent = view.final ? "finished run" : view.all ? `step ${reached} of ${view.planned}` : "no rollouts kept yet";
      said.say(`${plural(view.total, "group")}, page ${model.get("page") + 1} of ${view.pages}`);
    }
    let turn = 0, asked = false;
    async function redetail() {
      const mine = ++turn, one = model.get("detail"), view = model.get("view");
      if (!one.task) return detail.replaceChildren();
      const title = `Step ${one.step}: ${one.task}, ${one.type}`;
      const film = one.strip ? await stripOf(one.strip, "The prompt's frames") : null;
      if (mine !== turn) return;
      detail.style.setProperty("--vssr-task", paintOf(view.colors[one.task] ?? one.color));
      const parts = [
        el("div", { class: "vssr-head" }, el("h3", {}, title), el("span", { class: "vssr-file", title: one.video }, one.file)),
        one.question ? el("p", { class: "vssr-question" }, one.question) : null,
        film,
        one.note ? el("p", { class: "vssr-note", role: "status" }, one.note) : null,
        el("p", {}, "True answer: ", el("span", { class: "vssr-mono" }, one.answer)),
        replies(one.replies),
        el("div", { class: "vssr-row" },
          one.strip ? el("button", { type: "button", onclick: () => model.send({ do: "play" }) }, "Open in its viewer") : null,
          el("button", { type: "button", onclick: () => set({ opened: -1 }) }, "Close")),
      ];
      detail.setAttribute("aria-label", title);
      detail.replaceChildren(...parts.filter(Boolean));
      if (asked) reveal(detail);
      asked = false;
      said.say(`${title}. ${plural(one.replies.length, "reply").replace("replys", "replies")}, true answer ${one.answer}`);
    }
    // A run that still trains is asked for news, one question at a time: a kernel at work answers late.
    let waiting = false;
    const clock = setInterval(() => {
      if (waiting || model.get("view").final || document.hidden || !root.isConnected) return;
      waiting = true;
      model.send({ do: "refresh" });
    }, 2000);
    const answered = (message) => { if (message.done === "refresh") waiting = false; };
    const events = { "change:view": redraw, "change:opened": redraw, "change:page": redraw, "change:steps": redraw, "change:detail": redetail, "msg:custom": answered };
    for (const [name, heard] of Object.entries(events)) model.on(name, heard);
    redraw();
    await redetail();
    place.append(root);
    const gone = nested(model, "inside", inside);
    return () => {
      clearInterval(clock);
      for (const [name, heard] of Object.entries(events)) model.off(name, heard);
      said.free();
      find.free();
      gone();
    };
  });
}

export default { render };
