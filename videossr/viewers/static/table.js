// Tables of rows that one can open, a pager and filters: for viewers that show many things.

const paintOf = (color) => (color?.startsWith("#") ? color : `var(--vssr-${color || "overall"})`);

/**
 * A table. `columns`: [{ title, name, cell(row) -> text or node, number }]; the first cell opens its row.
 * `open(row)` is called for a chosen row, `turn(pages)` for PageUp and PageDown.
 */
function rowTable({ label, columns, open, turn }) {
  const body = el("tbody", { onkeydown: onkey });
  const node = el(
    "table",
    { class: "vssr-table", "aria-label": label },
    el("thead", {}, el("tr", {}, columns.map((column) => el("th", { scope: "col", class: column.number ? "vssr-number" : null }, column.title)))),
    body,
  );
  const outer = wide(node);
  let rows = [];
  const buttons = () => [...body.querySelectorAll(".vssr-open")];
  function onkey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const all = buttons(), at = all.indexOf(event.target);
    if (at < 0) return;
    const goals = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: all.length - 1 };
    if (event.key in goals) all[clamp(goals[event.key], 0, all.length - 1)].focus();
    else if (event.key === "PageDown") turn(1);
    else if (event.key === "PageUp") turn(-1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
  function line(row, place, opened) {
    const cells = columns.map((column, at) => {
      const content = column.cell(row);
      if (at) return el("td", { class: [column.number && "vssr-number", column.name].filter(Boolean).join(" ") || null }, content);
      const button = el("button", { type: "button", class: "vssr-open", "aria-expanded": String(row.number === opened), tabindex: place ? -1 : 0 }, content);
      button.addEventListener("focus", () => buttons().forEach((one) => (one.tabIndex = one === button ? 0 : -1)));
      return el("th", { scope: "row" }, button);
    });
    const node = el("tr", { class: row.number === opened ? "vssr-current" : null, onclick: () => open(row) }, cells);
    node.style.setProperty("--vssr-task", paintOf(row.color));
    return node;
  }
  return {
    node: outer,
    /** Shows rows; the focus stays on the row, or in the line, that had it. */
    set(next, opened) {
      const all = buttons(), at = all.indexOf(document.activeElement), held = at < 0 ? null : rows[at]?.number;
      rows = next;
      body.replaceChildren(...rows.map((row, place) => line(row, place, opened)));
      if (!rows.length) body.append(el("tr", {}, el("td", { colspan: columns.length, class: "vssr-wait" }, "Nothing fits these filters.")));
      const same = rows.findIndex((row) => row.number === held);
      if (at >= 0) (buttons()[same >= 0 ? same : clamp(at, 0, rows.length - 1)] ?? node).focus();
    },
  };
}

/** An element of an SVG picture. */
function shape(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const REWARD = [["1", 0], ["0.5", 0.5], ["0", 1]]; // text, share of the height from above

/** Round steps between two, at most six, and where they stand: [step, share of the width]. */
function stepTicks(first, last) {
  const rough = Math.max(1, (last - first) / 5), power = 10 ** Math.floor(Math.log10(rough));
  const every = [1, 2, 5, 10].map((part) => part * power).find((one) => one >= rough);
  const ticks = [];
  for (let step = Math.ceil(first / every) * every; step <= last; step += every) ticks.push([step, (step - first) / Math.max(1, last - first)]);
  return ticks;
}

/** A picture with its axes: what goes up, with its ticks, and steps along the foot. Texts stay out of the picture, which is stretched. */
function plot(svg, name, ups, steps) {
  const up = ups.map(([text, share]) => { const mark = el("span", { class: "vssr-up" }, text); mark.style.top = `${100 * share}%`; return mark; });
  const along = steps.map(([step, share]) => { const mark = el("span", { class: "vssr-along" }, step.toLocaleString("en")); mark.style.left = `${100 * share}%`; return mark; });
  return el("div", { class: "vssr-plot" }, svg, el("div", { "aria-hidden": "true" }, up, along, el("span", { class: "vssr-upname" }, name), el("span", { class: "vssr-alongname" }, "step")));
}

/** Brings what was opened into view, unless its beginning stands there well. */
function reveal(node) {
  const { top } = node.getBoundingClientRect();
  if (top < 60 || top > 0.6 * window.innerHeight) node.scrollIntoView({ block: "start", behavior: calm() ? "auto" : "smooth" });
}

/** Buttons and a number to turn pages. `go(page)` counts from 0. */
function pager(go) {
  let page = 0, pages = 1;
  const move = (to) => { if (clamp(to, 0, pages - 1) !== page) go(clamp(to, 0, pages - 1)); };
  const back = el("button", { type: "button", "aria-label": "Previous page", onclick: () => move(page - 1) }, "‹");
  const on = el("button", { type: "button", "aria-label": "Next page", onclick: () => move(page + 1) }, "›");
  const box = el("input", { type: "number", min: 1, "aria-label": "Page", onchange: () => move(Number(box.value) - 1) });
  const of = el("span", {});
  return {
    node: el("div", { class: "vssr-pager", role: "group", "aria-label": "Pages" }, back, box, of, on),
    move: (by) => move(page + by),
    set(now, count) {
      [page, pages] = [clamp(now, 0, count - 1), count];
      box.value = page + 1;
      box.max = pages;
      of.textContent = `of ${pages.toLocaleString("en")}`;
      back.disabled = page === 0;
      on.disabled = page === pages - 1;
    },
  };
}

/** A labelled list to choose from: options are texts, or [value, text]. */
function picker(label, onchange) {
  const list = el("select", { "aria-label": label, onchange: () => onchange(list.value) });
  const node = el("label", { class: "vssr-field" }, el("span", {}, label), list);
  let known = "";
  return {
    node,
    set(options, value) {
      const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
      if (JSON.stringify(pairs) !== known) list.replaceChildren(...pairs.map(([key, text]) => el("option", { value: key }, text)));
      known = JSON.stringify(pairs);
      list.value = value;
    },
  };
}

/** A field to type in; `onchange` comes once the typing rests. */
function finder(label, hint, onchange) {
  let timer = 0;
  const box = el("input", { type: "search", "aria-label": label, placeholder: hint, spellcheck: "false", oninput: () => { clearTimeout(timer); timer = setTimeout(() => onchange(box.value), 250); } });
  return {
    node: el("label", { class: "vssr-field" }, el("span", {}, label), box),
    set: (value) => { if (document.activeElement !== box) box.value = value; },
    free: () => clearTimeout(timer),
  };
}

/** A strip of frames with their times, a line for each clip. */
async function stripOf(strip, label) {
  const { tracks } = await openReel(strip.reel);
  const many = strip.times.length > 1;
  return el(
    "div",
    { class: "vssr-strip", role: "group", "aria-label": label },
    strip.times.map((times, clip) =>
      el(
        "div",
        { class: "vssr-film" },
        many ? el("span", { class: "vssr-clip" }, `Clip ${clip + 1}`) : null,
        times.map((time, place) =>
          el("figure", {}, canvasFor(tracks[clip][place], { "aria-label": `frame at ${seconds(time)}` }), el("figcaption", { "aria-hidden": "true" }, many ? "" : seconds(time)))),
      )),
  );
}

/** Shows the widget that a model's trait refers to in `place`, and takes it away again. */
function nested(model, trait, place) {
  let view = null, turn = 0;
  async function show() {
    const mine = ++turn, reference = model.get(trait);
    view?.remove();
    view = null;
    place.replaceChildren();
    if (!reference) return;
    const child = typeof reference === "string" ? await model.widget_manager.get_model(reference.replace("IPY_MODEL_", "")) : reference;
    const made = await model.widget_manager.create_view(child);
    if (mine !== turn) return made.remove();
    view = made;
    place.replaceChildren(made.el);
  }
  model.on(`change:${trait}`, show);
  show();
  return () => { turn++; model.off(`change:${trait}`, show); view?.remove(); };
}
