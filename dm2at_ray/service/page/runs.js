import { fill, h } from "./dom.js";
import { startDialog } from "./start.js";
import { sleep, visible } from "./wait.js";
import { STATES, counted, moment } from "./words.js";

/** @typedef {import("./types.js").RunSummary} RunSummary */

const EVERY_MS = 5_000;

/**
 * The runs to choose from.
 *
 * @param {import("./types.js").App} app
 * @param {AbortSignal} signal
 * @returns {Promise<HTMLElement>}
 */
export async function runsView(app, signal) {
  const list = h("ul", { class: "runs" });
  const more = h("button", { type: "button", on: { click: () => (pages++, refresh()) } }, "More runs");
  let pages = 1;
  let shown = "";

  async function refresh() {
    /** @type {RunSummary[]} */
    const runs = [];
    /** @type {string | null} */
    let next = null;
    for (let page = 0; page < pages; page++) {
      const after = next === null ? "" : `&after=${encodeURIComponent(next)}`;
      /** @type {import("./types.js").RunPage} */
      const found = await app.api.get(`runs?limit=100${after}`, { signal });
      runs.push(...found.runs);
      next = found.next;
      if (next === null) break;
    }
    more.hidden = next === null;
    // What has not changed keeps its focus.
    if (JSON.stringify(runs) === shown) return;
    shown = JSON.stringify(runs);
    const focused = document.activeElement?.getAttribute("href");
    fill(list, runs.length ? runs.map(item) : h("li", { class: "empty" }, "There is no run yet."));
    for (const link of list.querySelectorAll("a")) if (link.getAttribute("href") === focused) link.focus();
  }

  await refresh();
  keepFresh(refresh, signal);
  return h(
    "div",
    { class: "page" },
    h(
      "header",
      { class: "runhead" },
      h("h1", { tabindex: "-1" }, "Runs"),
      app.me.role === "operate" &&
        app.me.can_start_runs &&
        h(
          "button",
          { type: "button", class: "primary", on: { click: () => startDialog(app) } },
          "Start a run …",
        ),
    ),
    list,
    more,
  );
}

/** @param {RunSummary} run */
function item({ name, state, round, labeled, time }) {
  return h(
    "li",
    {},
    h(
      "a",
      { href: `#/runs/${encodeURIComponent(name)}` },
      h("strong", {}, name),
      h("span", { class: "state", data: { state } }, STATES[state] ?? state),
      h("span", { class: "quiet" }, `round ${round}`),
      h("span", { class: "quiet" }, counted(labeled, "label")),
      h("time", { class: "quiet", datetime: time }, moment(time)),
    ),
  );
}

/** @param {() => Promise<void>} refresh @param {AbortSignal} signal */
async function keepFresh(refresh, signal) {
  try {
    for (;;) {
      await sleep(EVERY_MS, signal);
      await visible(signal);
      // The next look may go better.
      await refresh().catch(() => {});
    }
  } catch {
    // The page shows something else now.
  }
}
