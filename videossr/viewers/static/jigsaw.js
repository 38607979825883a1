// JigsawBoard: clips as playing thumbnails, put in order by drag or by keys, and played in that order.

/** One clip of the board: its place, its picture, its number. */
function tile(number, frames, place, n) {
  const canvas = canvasFor(frames[0], { "aria-hidden": "true", role: null });
  const badge = el("span", { class: "vssr-place" }), truth = el("span", { class: "vssr-true" });
  const button = el("button", { type: "button", class: "vssr-tile", "aria-roledescription": "clip that can be moved", "data-clip": number },
    badge, canvas, el("span", { class: "vssr-caption" }, `Clip ${number}`, truth));
  const set = ({ where, held, right, current }) => {
    badge.textContent = where + 1;
    button.setAttribute("aria-pressed", String(held));
    button.classList.toggle("vssr-now", current);
    truth.textContent = right == null ? "" : right === where ? "✓ in place" : `true place ${right + 1}`;
    button.classList.toggle("vssr-right", right != null && right === where);
    button.setAttribute("aria-label", `Clip ${number}, place ${where + 1} of ${n}${right == null ? "" : `, true place ${right + 1}`}${held ? ", held" : ""}`);
  };
  return { number, frames, canvas, button, node: el("li", {}, button), set };
}

/** The row of tiles; `order()` reads the answer and `move(number, place)` changes it. */
function board(tiles, { order, move, say }) {
  const list = el("ol", { class: "vssr-board", "aria-label": "Clips in the order in which they are played" });
  const n = tiles.length, byNumber = (number) => tiles.find((one) => one.number === number);
  let held = null, drag = null, dragged = false;
  const state = { get held() { return held; } };
  const whereIs = (number) => order().indexOf(String(number));
  const shift = (number, place) => {
    place = clamp(place, 0, n - 1);
    if (place === whereIs(number)) return;
    move(number, place);
    byNumber(number).button.focus();
    say(`Clip ${number} is at place ${place + 1} of ${n}`);
  };
  state.layout = () => {
    const active = list.contains(document.activeElement) ? document.activeElement : null;
    [...order()].forEach((digit, place) => {
      const { node } = byNumber(Number(digit));
      if (list.children[place] !== node) list.insertBefore(node, list.children[place] ?? null);
    });
    if (active) active.focus({ preventScroll: true });
  };
  const hold = (number) => {
    held = number;
    say(number == null ? "Put down" : `Clip ${number} held: arrows move it, space puts it down`);
    state.changed();
  };
  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const number = Number(event.target.closest("[data-clip]")?.dataset.clip), place = whereIs(number);
    if (!number) return;
    const goals = { ArrowLeft: place - 1, ArrowUp: place - 1, ArrowRight: place + 1, ArrowDown: place + 1, Home: 0, End: n - 1 };
    const digit = /^[1-9]$/.test(event.key) && Number(event.key) <= n ? Number(event.key) - 1 : null;
    if (digit != null) shift(number, digit);
    else if (event.key in goals) {
      if (event.shiftKey || held === number) shift(number, goals[event.key]);
      else byNumber(Number(order()[clamp(goals[event.key], 0, n - 1)])).button.focus();
    } else if (event.key === "Escape" && held != null) hold(null);
    else return;
    event.preventDefault();
  });
  list.addEventListener("click", (event) => {
    const number = Number(event.target.closest("[data-clip]")?.dataset.clip);
    if (number && !dragged) hold(held === number ? null : number);
    dragged = false;
  });
  list.addEventListener("focusout", (event) => { if (held != null && !list.contains(event.relatedTarget) && event.relatedTarget) hold(null); });
  list.addEventListener("pointerdown", (event) => {
    const found = event.target.closest("[data-clip]");
    if (found && !event.button) drag = { number: Number(found.dataset.clip), x: event.clientX, y: event.clientY };
    dragged = false;
  });
  list.addEventListener("pointermove", (event) => {
    if (!drag) return;
    if (!event.buttons) return (drag = null);
    if (!dragged && Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < 5) return;
    if (!dragged) { dragged = true; list.setPointerCapture(event.pointerId); byNumber(drag.number).node.classList.add("vssr-dragged"); }
    const far = [...list.children].map((node) => {
      const box = node.getBoundingClientRect();
      return Math.hypot(event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2);
    });
    shift(drag.number, far.indexOf(Math.min(...far)));
  });
  for (const name of ["pointerup", "pointercancel"]) list.addEventListener(name, () => {
    if (drag) byNumber(drag.number).node.classList.remove("vssr-dragged");
    drag = null;
    if (dragged) setTimeout(() => (dragged = false), 0);
  });
  list.append(...tiles.map((one) => one.node));
  return Object.assign(state, { node: list, changed: () => {} });
}

async function render({ model, el: place }) {
  return guarded(place, async () => {
    const info = model.get("data"), { tracks } = await openReel(info.reel), n = info.n;
    const said = announcer(), root = shell(info, "Jigsaw board"), order = () => model.get("order");
    const keep = (name, value) => { model.set(name, value); model.save_changes(); };
    const tiles = Array.from({ length: n }, (_, k) => tile(k + 1, tracks[k + 1], k, n));
    const frames = () => [...order()].flatMap((digit) => tracks[digit].map((picture, k) => ({ picture, digit, k })));
    const big = canvasFor(tracks[order()[0]][0], { "aria-label": "The clips, one after another" });
    const move = (number, where) => {
      const digits = [...order()].filter((digit) => digit !== String(number));
      digits.splice(where, 0, String(number));
      keep("order", digits.join(""));
    };
    const rack = board(tiles, { order, move, say: said.say });
    let now = null;
    const update = () => {
      rack.layout();
      const truth = model.get("show_truth") ? info.truth : null;
      tiles.forEach((one) => one.set({
        where: order().indexOf(String(one.number)), held: rack.held === one.number, current: now === String(one.number),
        right: truth ? truth.indexOf(String(one.number)) : null,
      }));
    };
    rack.changed = update;
    const play = player({
      root, times: info.times, frame: model.get("frame"), rest: (k) => keep("frame", k),
      describe: (k) => `clip ${frames()[k].digit}`,
      draw: (k) => {
        const { picture, digit } = frames()[k];
        paint(big, picture);
        if (digit !== now) { now = digit; update(); }
      },
    });
    // the thumbnails run by themselves, all at one pace, for as long as they are looked at
    let beat = 0, moving = !calm();
    const clock = setInterval(() => {
      if (!moving || !root.isConnected || document.hidden) return;
      beat += 1;
      tiles.forEach((one) => paint(one.canvas, one.frames[beat % one.frames.length]));
    }, 250);
    const take = (text, digits, label = null) => el("button", { type: "button", "aria-label": label, onclick: () => keep("order", digits) }, text);
    const reward = el("b"), strict = el("b"), reading = el("span", { class: "vssr-order" });
    const marks = tick("Mark true places", model.get("show_truth"), (on) => keep("show_truth", on));
    root.append(
      el("div", { class: "vssr-stage vssr-preview" }, el("figure", {}, big, el("figcaption", {}, "Played in your order"))), play.node, rack.node,
      el("p", { class: "vssr-keys" }, "Drag a clip, or select it: ", el("kbd", {}, "Shift"), " + ", el("kbd", {}, "←"), " ", el("kbd", {}, "→"), " move it, ",
        el("kbd", {}, "1"), " to ", el("kbd", {}, String(n)), " send it to that place."),
      el("div", { class: "vssr-row" }, take("As shown", info.shown), take("True order", info.truth), marks.node,
        tick("Thumbnails play", moving, (on) => (moving = on)).node,
        el("span", { class: "vssr-score" }, reading, el("span", {}, "reward"), reward, el("span", {}, "strict"), strict)),
      said.node,
    );
    const table = replyTable(info.rows, (row) => row.value && take("Take", row.value, `Take the order of ${row.name}`));
    if (table) root.append(table);
    const scored = () => {
      reward.textContent = model.get("reward").toFixed(2);
      strict.textContent = model.get("strict").toFixed(0);
      said.say(`Order ${[...order()].join(" ")}, reward ${model.get("reward").toFixed(2)}`);
    };
    const reordered = () => {
      reading.textContent = order();
      const { picture, digit } = frames()[play.frame];
      now = digit;
      update();
      paint(big, picture);
    };
    const marked = () => { marks.set(model.get("show_truth")); update(); };
    const jump = () => model.get("frame") !== play.frame && !play.playing && play.seek(model.get("frame"));
    model.on("change:order", reordered);
    model.on("change:reward change:strict", scored);
    model.on("change:show_truth", marked);
    model.on("change:frame", jump);
    reordered();
    scored();
    place.append(root);
    return () => {
      clearInterval(clock); play.free(); said.free();
      model.off("change:order", reordered);
      model.off("change:reward change:strict", scored);
      model.off("change:show_truth", marked);
      model.off("change:frame", jump);
    };
  });
}
export default { render };
