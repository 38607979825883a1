// A run as it trains: progress, reward by task beside its floors, silent groups, the latest rollouts.

function clock(seconds) {
  if (seconds == null) return "–";
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60)];
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min ${Math.round(seconds % 60)} s` : `${Math.round(seconds)} s`;
}

/** Means of each point and the ones before it, a tenth of the curve. */
function rolling(points) {
  const width = Math.max(1, Math.floor(points.length / 10));
  return points.map(([step], at) => {
    const part = points.slice(Math.max(0, at - width + 1), at + 1);
    return [step, part.reduce((sum, [, value]) => sum + value, 0) / part.length];
  });
}

/** Reward from 0 to 1 over the steps; grey from below: the share of groups with zero variance. */
function chart(one, last) {
  const x = (step) => (300 * step) / Math.max(1, last), y = (value) => 100 - 100 * clamp(value, 0, 1);
  const path = (points) => points.map(([step, value], at) => `${at ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const svg = shape("svg", { viewBox: "0 0 300 100", preserveAspectRatio: "none", role: "img" });
  const floor = (one.floor == null ? "no blind floor known" : `blind floor ${one.floor.toFixed(2)}`) + (one.low == null ? "" : `, low-level ${one.low.toFixed(2)}`);
  svg.setAttribute("aria-label", `${one.task}: reward ${one.now == null ? "unknown" : one.now.toFixed(2)} of late, ${floor}`);
  for (const value of [0, 0.5, 1]) svg.append(shape("line", { class: "vssr-grid", x1: 0, x2: 300, y1: y(value), y2: y(value) }));
  if (one.silent.length > 1) svg.append(shape("path", { class: "vssr-area", d: `${path(one.silent)}L${x(one.silent.at(-1)[0])} 100L${x(one.silent[0][0])} 100Z` }));
  svg.append(shape("path", { class: "vssr-raw", d: path(one.reward) }), shape("path", { class: "vssr-mean", d: path(rolling(one.reward)) }));
  if (one.other.length) svg.append(shape("path", { class: "vssr-other", d: path(rolling(one.other)) }));
  if (one.floor != null) svg.append(shape("line", { class: "vssr-floor", x1: 0, x2: 300, y1: y(one.floor), y2: y(one.floor) }));
  if (one.low != null) svg.append(shape("line", { class: "vssr-floor vssr-low", x1: 0, x2: 300, y1: y(one.low), y2: y(one.low) }));
  const node = el("figure", { class: "vssr-chart" },
    el("figcaption", {}, el("span", { class: "vssr-name" }, one.task), el("b", {}, one.now == null ? "–" : one.now.toFixed(2)), el("span", {}, floor)), plot(svg, "mean reward", REWARD, stepTicks(0, last)));
  node.style.setProperty("--vssr-task", paintOf(one.color));
  return node;
}

async function render({ model, el: place }) {
  return guarded(place, async () => {
    const info = model.get("data");
    const said = announcer();
    const fill = el("div", { class: "vssr-bar-fill" });
    const track = el("div", { class: "vssr-bar-track", role: "progressbar", "aria-label": "Training steps", "aria-valuemin": 0 }, fill);
    const facts = el("div", { class: "vssr-facts" });
    const charts = el("div", { class: "vssr-charts" });
    const legend = el("div", { class: "vssr-keys" }), colors = "Mean reward of the rollouts, which goes from 0 to 1, by training step. Dashed: blind floor. Dotted: low-level floor. Grey: share of groups with zero variance.";
    const latest = el("div", {});
    const root = shell(info, "Training run", track, facts, charts, legend, latest, said.node);
    let spoken = 0;
    function redraw() {
      const now = model.get("state"), share = now.planned ? now.step / now.planned : 0;
      fill.style.width = `${100 * clamp(share, 0, 1)}%`;
      track.setAttribute("aria-valuemax", now.planned);
      track.setAttribute("aria-valuenow", now.step);
      const fact = (name, value) => el("div", {}, el("b", {}, value), " ", el("span", {}, name));
      facts.replaceChildren(
        fact(now.final ? "finished" : now.step ? `of ${now.planned} steps` : "waiting for the first step", now.step.toLocaleString("en")),
        fact("seconds a step", now.seconds == null ? "–" : now.seconds.toFixed(2)),
        ...(now.final ? [] : [fact("left", clock(now.left))]),
        fact("mean reward", now.reward == null ? "–" : now.reward.toFixed(2)),
        fact("groups with zero variance", now.silent == null ? "–" : `${Math.round(100 * now.silent)} %`),
      );
      charts.replaceChildren(...now.tasks.map((one) => chart(one, now.last)));
      legend.hidden = !now.tasks.length;
      legend.textContent = now.beside ? `${colors} Thin dark line: the run ${now.beside}.` : colors;
      const head = ["step", "task", "type", "true answer", "best reply", "worst reply", "mean"];
      const mono = (text) => el("td", { class: "vssr-mono", title: text }, text || "(nothing)");
      latest.replaceChildren(...(now.groups.length ? [wide(el("table", { class: "vssr-table vssr-latest", "aria-label": "Latest rollouts" },
        el("thead", {}, el("tr", {}, head.map((text, at) => el("th", { scope: "col", class: at === 6 ? "vssr-number" : null }, text)))),
        el("tbody", {}, now.groups.map((group) => {
          const line = el("tr", {}, el("td", {}, String(group.step)), el("td", { class: "vssr-name" }, group.task), el("td", {}, group.type), mono(group.answer), mono(group.best), mono(group.worst),
            el("td", { class: "vssr-number" }, group.mean.toFixed(2)));
          line.style.setProperty("--vssr-task", paintOf(group.color));
          return line;
        }))))] : []));
      if (now.final || Date.now() - spoken > 30000) {  // a screen reader is not told of every step
        spoken = Date.now();
        said.say(now.final ? "The run is finished." : `Step ${now.step} of ${now.planned}, mean reward ${now.reward == null ? "unknown" : now.reward.toFixed(2)}`);
      }
    }
    model.on("change:state", redraw);
    redraw();
    place.append(root);
    return () => { model.off("change:state", redraw); said.free(); };
  });
}

export default { render };
