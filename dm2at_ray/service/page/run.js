import { accuracyCurves } from "./curves.js";
import { fill, h } from "./dom.js";
import { downloads } from "./downloads.js";
import { labelsSoFar } from "./people.js";
import { warn } from "./notices.js";
import { Operations } from "./operate.js";
import { RoundProgress } from "./progress.js";
import { doing, runHead } from "./runhead.js";
import { followStatus } from "./stream.js";
import { moment, number } from "./words.js";

/** @typedef {import("./types.js").RunStatus} RunStatus */

/**
 * A run: where it stands, its curves, its labels, and what an operator does with it.
 *
 * @param {import("./types.js").App} app
 * @param {AbortSignal} signal
 * @param {string} run
 * @returns {Promise<HTMLElement>}
 */
export async function runView(app, signal, run) {
  const path = `runs/${encodeURIComponent(run)}`;
  const head = runHead(app, run, "overview");
  const progress = new RoundProgress();
  const now = h("div", { class: "now" });
  const call = h("a", { class: "button primary", href: `#/${path}/label`, hidden: true }, "Label pictures");
  const operations = app.me.role === "operate" ? new Operations(app, run, signal, show) : null;
  const curves = h("div", {});
  const labels = h("div", {});
  const line = h("p", { class: "wrong", role: "status" });
  /** @type {import("./types.js").RoundMetrics[]} */
  const rounds = [];
  let drawn = -1;

  /** @param {RunStatus} status */
  function show(status) {
    head.show(status.state);
    fill(now, ...standing(status));
    progress.show(status.awaiting, null, 0);
    call.hidden = !status.awaiting || app.me.role === "read" || status.state === "stopped";
    operations?.show(status);
    if (drawn === status.rounds_committed) return;
    drawn = status.rounds_committed;
    update().catch((error) => {
      // Asked for again with the next word of the run.
      drawn = -1;
      if (!signal.aborted) warn(error.message);
    });
  }

  async function update() {
    for (;;) {
      const after = rounds.length ? `&after=${rounds[rounds.length - 1].round}` : "";
      /** @type {import("./types.js").RoundPage} */
      const found = await app.api.get(`${path}/rounds?limit=100${after}`, { signal });
      const last = rounds.at(-1)?.round ?? -1;
      rounds.push(...found.rounds.filter((each) => each.round > last));
      if (found.next === null) break;
    }
    fill(curves, accuracyCurves(rounds, signal));
  }

  show(await app.api.get(path, { signal }));
  followStatus(
    app.api,
    run,
    show,
    (alive) =>
      (line.textContent = alive ? "" : "The line to the service is broken: what is shown may be old."),
    signal,
  ).catch((error) => warn(error.message));
  labelsSoFar(app, run, signal).then(
    (found) => fill(labels, found),
    (error) => !signal.aborted && fill(labels, h("p", { class: "wrong" }, error.message)),
  );
  return h(
    "div",
    { class: "page" },
    head.element,
    section(
      "standing",
      "Where it stands",
      line,
      now,
      progress.element,
      h("div", { class: "buttons" }, call, operations?.element),
    ),
    section(
      "accuracy",
      "Accuracy by labels",
      h(
        "p",
        { class: "quiet" },
        "On the held-out pictures. FGSM alone is no evidence of robustness: where it stays high while PGD falls, training has collapsed.",
      ),
      curves,
    ),
    section("labels", "Labels so far", labels),
    section(
      "files",
      "To take away",
      downloads(app, run, signal, () => rounds.at(-1)?.round ?? null),
    ),
  );
}

/** @param {RunStatus} status */
function standing(status) {
  /** @type {[string, string][]} */
  const facts = [
    ["Labels", number(status.labeled)],
    ["Unlabeled", number(status.unlabeled)],
    ["Final rounds", number(status.rounds_committed)],
    ["Goes on by itself", status.advance ? "yes" : "no"],
    ["Last word", moment(status.time)],
  ];
  const stage =
    status.total > 0 &&
    h(
      "div",
      { class: "stage" },
      h("progress", { max: status.total, value: status.done, "aria-label": `Progress of ${status.stage}` }),
      h("span", {}, `${number(status.done)} of ${number(status.total)} ${status.unit}`),
    );
  return [
    h("p", { class: "doing" }, doing(status)),
    stage,
    status.reason ? h("p", { class: status.state === "failed" ? "wrong" : "quiet" }, status.reason) : null,
    h(
      "dl",
      { class: "facts" },
      facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    ),
  ];
}

/** @param {string} id @param {string} title @param {...import("./dom.js").Child} children */
function section(id, title, ...children) {
  return h(
    "section",
    { class: "card", "aria-labelledby": `${id}-title`, id },
    h("h2", { id: `${id}-title` }, title),
    ...children,
  );
}
