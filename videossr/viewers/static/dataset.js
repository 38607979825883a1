// The rows of a dataset: filters, one page of the list, and one sample in its viewer.

async function render({ model, el: place }) {
  return guarded(place, async () => {
    const info = model.get("data");
    const set = (values) => { for (const [name, value] of Object.entries(values)) model.set(name, value); model.save_changes(); };
    const said = announcer();
    const splits = picker("Split", (split) => set({ split }));
    const what = choice("Samples or refusals", [["samples", "Samples"], ["refusals", "Refusals"]], model.get("what"), (value) => set({ what: value }));
    const pickers = Object.fromEntries(["task", "type", "reason"].map((name) => [name, picker(name[0].toUpperCase() + name.slice(1), (value) => set({ [name]: value }))]));
    const sort = picker("Sort by", (value) => set({ sort: value }));
    const find = finder("Find", "question, answer, file", (text) => set({ text }));
    const turner = pager((page) => set({ page }));
    const state = el("span", { class: "vssr-push vssr-keys" });
    const truth = tick("Show true answers", model.get("show_truth"), (value) => set({ show_truth: value }));
    const answer = (text) => (model.get("show_truth") ? text : el("span", { class: "vssr-wait", title: "Tick “Show true answers”" }, "hidden"));
    const file = (row) => el("span", { title: row.video }, row.file);
    const head = [
      { title: "row", cell: (row) => row.number.toLocaleString("en") },
      { title: "task", cell: (row) => el("span", { class: "vssr-name" }, row.task || "any") },
      { title: "type", cell: (row) => row.type },
    ];
    const turn = (by) => turner.move(by);
    const lists = {
      samples: rowTable({
        label: "Samples", turn,
        open: (row) => { asked = true; set({ opened: row.number === model.get("opened") ? -1 : row.number }); },
        columns: [...head, { title: "true answer", cell: (row) => answer(row.answer), name: "vssr-mono" }, { title: "video", cell: file }, { title: "question", cell: (row) => el("span", { title: row.question }, row.question) }],
      }),
      refusals: rowTable({
        label: "Refusals", turn, open: (row) => said.say(`${row.file}: ${row.reason}. ${row.detail}`),
        columns: [...head, { title: "video", cell: file }, { title: "reason", cell: (row) => row.reason }, { title: "measured", cell: (row) => el("span", { title: row.detail }, row.detail) }],
      }),
    };
    const list = el("div", { class: "vssr-explorer" });
    const detail = el("section", { class: "vssr-detail" });
    const inside = el("div", { class: "vssr-inside" });
    const root = shell(
      info, "Dataset explorer",
      el("div", { class: "vssr-row" }, what.node, splits.node, pickers.task.node, pickers.type.node, pickers.reason.node, sort.node, find.node, truth.node),
      list,
      el("div", { class: "vssr-row" }, turner.node, el("span", { class: "vssr-keys" }, el("kbd", {}, "↑"), " ", el("kbd", {}, "↓"), " rows, ", el("kbd", {}, "Enter"), " open, ", el("kbd", {}, "PgDn"), " next page"), state),
      detail, inside, said.node,
    );
    function redraw() {
      const view = model.get("view"), now = model.get("what");
      what.set(now);
      truth.set(model.get("show_truth"));
      truth.node.hidden = now === "refusals";
      splits.set(info.splits, model.get("split"));
      splits.node.hidden = info.splits.length < 2;
      for (const [name, one] of Object.entries(pickers)) one.set([["", "all"], ...view[name]], model.get(name));
      pickers.reason.node.hidden = now !== "refusals";
      sort.set([["order", "dataset's order"], ...info.sorts.slice(1)], model.get("sort"));
      find.set(model.get("text"));
      if (list.firstChild !== lists[now].node) list.replaceChildren(lists[now].node);
      lists[now].set(view.rows, model.get("opened"));
      turner.set(model.get("page"), view.pages);
      const fit = view.total === view.all ? `${view.all.toLocaleString("en")} ${now}` : `${view.total.toLocaleString("en")} of ${view.all.toLocaleString("en")} ${now}`;
      state.textContent = fit;
      said.say(`${fit}, page ${model.get("page") + 1} of ${view.pages}`);
    }
    let turned = 0, asked = false;
    async function redetail() {
      const mine = ++turned, one = model.get("detail");
      if (!one.task) return detail.replaceChildren();
      const film = one.strip ? await stripOf(one.strip, "The sample's frames") : null;
      if (mine !== turned) return;
      const alone = model.get("inside") == null;
      detail.style.setProperty("--vssr-task", paintOf(one.color));
      const parts = [
        el("div", { class: "vssr-head" }, el("h3", {}, `Row ${model.get("opened").toLocaleString("en")}: ${one.task}, ${one.type}`), el("span", { class: "vssr-file", title: one.video }, one.file)),
        alone ? el("p", { class: "vssr-question" }, one.question) : null,
        film,
        one.note ? el("p", { class: "vssr-note", role: "status" }, one.note) : null,
        el("p", {}, "True answer: ", el("span", { class: "vssr-mono" }, answer(one.answer))),
        el("details", { class: "vssr-recipe" }, el("summary", {}, "Recipe"), el("pre", {}, one.recipe)),
        el("div", { class: "vssr-row" }, el("button", { type: "button", onclick: () => set({ opened: -1 }) }, "Close")),
      ];
      detail.setAttribute("aria-label", `${one.task}, ${one.type}`);
      detail.replaceChildren(...parts.filter(Boolean));
      if (asked) reveal(detail);
      asked = false;
      said.say(`Row ${model.get("opened")}: ${one.task}, ${one.type}. ${one.note || (model.get("show_truth") ? `True answer ${one.answer}` : "")}`);
    }
    const retold = () => { redraw(); redetail(); };
    const events = { "change:show_truth": retold, "change:view": redraw, "change:opened": redraw, "change:page": redraw, "change:detail": redetail };
    for (const [name, heard] of Object.entries(events)) model.on(name, heard);
    redraw();
    await redetail();
    place.append(root);
    const gone = nested(model, "inside", inside);
    return () => {
      for (const [name, heard] of Object.entries(events)) model.off(name, heard);
      said.free();
      find.free();
      gone();
    };
  });
}

export default { render };
