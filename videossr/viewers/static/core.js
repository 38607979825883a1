// What all viewers share: elements whose texts are never markup, frames, a player, keys, announcements.
// A viewer's script is this file followed by its own, which ends in `export default { render }`.
// ROOT, the class that styles are scoped to, is put before it by `script`.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, `on...` listeners and children. Strings become text, whatever they hold. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

const ICONS = { play: "M5 3l9 5-9 5z", pause: "M4 3h3v10H4zM9 3h3v10H9z" };

function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const seconds = (time) => `${time.toFixed(1)} s`;
const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
const calm = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Decodes a `Reel`: { tracks: { name: [picture of each frame] } }. Frames that are alike share one picture. */
async function openReel(reel) {
  const { data, sizes, tracks } = reel;
  let at = 0;
  const blobs = sizes.map((size) => {
    const blob = new Blob([new Uint8Array(data.buffer, data.byteOffset + at, size)], { type: "image/jpeg" });
    at += size;
    return blob;
  });
  const pictures = await Promise.all(blobs.map((blob) => createImageBitmap(blob)));
  return { tracks: Object.fromEntries(Object.entries(tracks).map(([name, places]) => [name, places.map((place) => pictures[place])])) };
}

/** A canvas as large as a picture, and drawn with it. */
function canvasFor(picture, attributes = {}) {
  const canvas = el("canvas", { role: "img", ...attributes });
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.style.setProperty("--vssr-aspect", picture.width / picture.height);
  paint(canvas, picture);
  return canvas;
}

/** Draws a picture on a canvas; with a second one, the absolute difference of the two. */
function paint(canvas, picture, other = null) {
  const context = canvas.getContext("2d");
  context.globalCompositeOperation = "source-over";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  if (other) {
    context.globalCompositeOperation = "difference";
    context.drawImage(other, 0, 0, canvas.width, canvas.height);
    context.globalCompositeOperation = "source-over";
  }
  return context;
}

/** The frame of every viewer: task, type, file, question, then `children`. Keys typed in it are its own, but for Ctrl, Alt, Esc and Shift+Enter. */
function shell(info, label, ...children) {
  const root = el(
    "section",
    { class: `vssr ${ROOT}`, "aria-label": label },
    el(
      "header",
      { class: "vssr-head" },
      el("span", { class: "vssr-task" }, info.task),
      el("span", { class: "vssr-type" }, info.type),
      el("span", { class: "vssr-file", title: info.video }, info.file),
    ),
    el("p", { class: "vssr-question" }, info.question),
    children,
  );
  if (info.color) root.style.setProperty("--vssr-task", `var(--vssr-${info.color})`);
  // JupyterLab listens on the document: what stops here is no shortcut of the notebook
  root.addEventListener("keydown", (event) => {
    const theirs = event.ctrlKey || event.metaKey || event.altKey || event.key === "Escape" || (event.shiftKey && event.key === "Enter");
    if (!theirs) event.stopPropagation();
  });
  return root;
}

/** A line for a screen reader, which is told of the last text after a short rest. */
function announcer() {
  const node = el("div", { class: "vssr-said", role: "status", "aria-live": "polite" });
  let timer = 0;
  return {
    node,
    say: (text) => {
      clearTimeout(timer);
      timer = setTimeout(() => (node.textContent = text), 250);
    },
    free: () => clearTimeout(timer),
  };
}

/** Buttons of which one is chosen: [[value, text], ...]. Arrows move between them. */
function choice(label, options, value, onchange) {
  const name = `vssr-${Math.random().toString(36).slice(2)}`;
  const inputs = options.map(([key]) => el("input", { type: "radio", name, value: key, checked: key === value, onchange: () => onchange(key) }));
  const node = el(
    "fieldset",
    { class: "vssr-choice" },
    el("legend", {}, label),
    options.map(([, text], place) => el("label", {}, inputs[place], el("span", {}, text))),
  );
  return { node, set: (key) => inputs.forEach((input) => (input.checked = input.value === key)) };
}

/** A box to tick. */
function tick(label, value, onchange) {
  const input = el("input", { type: "checkbox", checked: value, onchange: () => onchange(input.checked) });
  return { node: el("label", { class: "vssr-tick" }, input, el("span", {}, label)), set: (on) => (input.checked = on) };
}

/**
 * Play, pause, scrub, step. `draw(frame)` is called for every frame shown, `rest(frame)` when it stays.
 * `keys(event)` may take further keys; the listener belongs on `root`, so that they work anywhere in the viewer.
 */
function player({ root, times, draw, rest = () => {}, keys = () => false, frame = 0, describe = () => "" }) {
  const last = times.length - 1;
  let timer = 0, resting = 0, speed = 8;
  const label = el("span", { class: "vssr-time" });
  const range = el("input", {
    type: "range", class: "vssr-range", min: 0, max: last, step: 1, value: frame, "aria-label": "Frame",
    oninput: () => { stop(); show(Number(range.value)); },
  });
  const button = el("button", { type: "button", class: "vssr-play", onclick: () => toggle() });
  const pace = el("select", { "aria-label": "Speed", onchange: () => { speed = Number(pace.value); if (timer) { stop(); play(); } } },
    [[2, "2 frames/s"], [4, "4 frames/s"], [8, "8 frames/s"], [16, "16 frames/s"], [0, "true speed"]].map(([value, text]) =>
      el("option", { value, selected: value === speed }, text)));
  const node = el("div", { class: "vssr-player" }, button, range, label, pace);

  function face() {
    button.replaceChildren(icon(timer ? "pause" : "play"));
    button.setAttribute("aria-label", timer ? "Pause" : "Play");
    button.title = timer ? "Pause (space)" : "Play (space)";
  }
  function show(k) {
    frame = clamp(k, 0, last);
    range.value = frame;
    range.setAttribute("aria-valuetext", [`frame ${frame + 1} of ${last + 1}, ${seconds(times[frame])}`, describe(frame)].filter(Boolean).join(", "));
    label.textContent = `${seconds(times[frame])}  ·  ${frame + 1}/${last + 1}`;
    draw(frame);
    clearTimeout(resting);
    if (!timer) resting = setTimeout(() => rest(frame), 200);
  }
  function wait() {
    return speed ? 1000 / speed : 1000 * Math.max(0.02, (times[frame + 1] ?? times[frame]) - times[frame]);
  }
  function beat() {
    if (!node.isConnected) return stop();
    if (frame >= last) return stop();
    show(frame + 1);
    timer = setTimeout(beat, wait());
  }
  function play() {
    if (last < 1) return;
    if (frame >= last) show(0);
    timer = setTimeout(beat, wait());
    face();
  }
  function stop() {
    if (!timer) return;
    clearTimeout(timer);
    timer = 0;
    face();
    clearTimeout(resting);
    resting = setTimeout(() => rest(frame), 200);
  }
  const toggle = () => (timer ? stop() : play());
  const seek = (k) => { stop(); show(k); };
  function onkey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const tag = event.target.tagName, own = tag === "SELECT" || tag === "TEXTAREA" || (tag === "INPUT" && event.target !== range && event.target.type !== "checkbox");
    if (own) return;
    const moves = { ArrowLeft: frame - 1, ArrowRight: frame + 1, PageUp: frame - 8, PageDown: frame + 8, Home: 0, End: last };
    if (event.key === " " && (tag === "BUTTON" || tag === "SUMMARY" || event.target.type === "checkbox")) return; // it presses what has the focus
    if (event.key === " ") toggle();
    else if (event.key in moves) seek(moves[event.key]);
    else if (!keys(event)) return;
    event.preventDefault();
  }
  root.addEventListener("keydown", onkey);
  face();
  show(frame);
  clearTimeout(resting);
  return { node, play, stop, toggle, seek, get frame() { return frame; }, get playing() { return Boolean(timer); }, free: () => { stop(); clearTimeout(resting); } };
}

/** A table that scrolls sideways where the page is too narrow for it. */
const wide = (table) => el("div", { class: "vssr-wide" }, table);

/** A reply with its thoughts folded; a thought may begin with the reply, or be cut before its end. */
function replyText(text) {
  const parts = [], thoughts = /(?:^|<think>)((?:(?!<think>)[^])*?)<\/think>|<think>([^]*)$/g;
  let end = 0;
  for (const found of text.matchAll(thoughts)) {
    const thought = (found[1] ?? found[2]).trim(), words = thought.split(/\s+/).filter(Boolean).length;
    parts.push(text.slice(end, found.index), el("details", { class: "vssr-thought" }, el("summary", {}, `thought, ${plural(words, "word")}${found[2] == null ? "" : ", not ended"}`), thought));
    end = found.index + found[0].length;
  }
  return [...parts, text.slice(end).trim() || (end ? "(no answer)" : "(nothing)")];
}

/** A table of what models said: name, reply, what it was read as, rewards. `extra(row)` adds a cell, e.g. a button. */
function replyTable(rows, extra = null) {
  if (!rows.length) return null;
  const head = ["reply of", "text", "read as", "reward", "strict"].concat(extra ? [""] : []);
  return wide(el(
    "table",
    { class: "vssr-replies" },
    el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, rows.map((row) =>
      el("tr", {},
        el("th", { scope: "row" }, row.name),
        el("td", { class: "vssr-text" }, replyText(row.text)),
        el("td", {}, row.read ?? "unreadable"),
        el("td", { class: "vssr-number" }, row.reward.toFixed(2)),
        el("td", { class: "vssr-number" }, row.strict.toFixed(2)),
        extra ? el("td", {}, extra(row)) : null))),
  ));
}

/** Calls `build(root content)` and shows what went wrong, if something did, instead of an empty place. */
async function guarded(place, build) {
  const note = el("div", { class: `vssr ${ROOT} vssr-wait`, role: "status" }, "Loading…");
  place.append(note);
  try {
    const free = await build();
    note.remove();
    return free;
  } catch (error) {
    note.textContent = `This viewer could not be shown: ${error.message}`;
    console.error(error);
    return () => {};
  }
}
