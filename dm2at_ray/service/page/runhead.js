import { fill, h } from "./dom.js";
import { STATES } from "./words.js";

/**
 * A run's name and its pages.
 *
 * @param {import("./types.js").App} app
 * @param {string} run
 * @param {"overview" | "label" | "disagreements"} here
 */
export function runHead(app, run, here) {
  const base = `#/runs/${encodeURIComponent(run)}`;
  const state = h("span", { class: "state" });
  const tab = (/** @type {string} */ name, /** @type {string} */ path, /** @type {string} */ text) =>
    h("a", { href: base + path, "aria-current": name === here ? "page" : null }, text);
  const element = h(
    "header",
    { class: "runhead" },
    h("h1", { tabindex: "-1" }, run),
    state,
    h(
      "nav",
      { class: "tabs", "aria-label": "Pages of the run" },
      tab("overview", "", "Overview"),
      app.me.role !== "read" && tab("label", "/label", "Label"),
      app.me.role === "operate" && tab("disagreements", "/disagreements", "Disagreements"),
    ),
  );
  return {
    element,
    /** @param {import("./types.js").RunState} now */
    show(now) {
      state.dataset.state = now;
      fill(state, STATES[now] ?? now);
    },
  };
}

/**
 * What a run is doing, in a line.
 *
 * @param {import("./types.js").RunStatus} status
 */
export function doing(status) {
  if (status.stage && status.state === "running") {
    return `Round ${status.round}, ${status.stage}${status.total > 0 ? "" : " …"}`;
  }
  return `Round ${status.round}, ${STATES[status.state] ?? status.state}`;
}
