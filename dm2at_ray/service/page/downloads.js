import { fill, h } from "./dom.js";
import { warn } from "./notices.js";

/**
 * What can be taken away of a run. By fetch, as a link would not carry the token.
 *
 * @param {import("./types.js").App} app
 * @param {string} run
 * @param {AbortSignal} signal
 * @param {() => number | null} lastRound that is final
 */
export function downloads(app, run, signal, lastRound) {
  const path = `runs/${encodeURIComponent(run)}`;
  const config = h("pre", { tabindex: "0", "aria-label": "Config" });
  const unfolded = h("details", {}, h("summary", {}, "Config"), config);
  unfolded.addEventListener("toggle", async () => {
    if (!unfolded.open || config.textContent) return;
    try {
      fill(config, await (await app.api.blob(`${path}/config`, { signal })).text());
    } catch (error) {
      fill(config, /** @type {Error} */ (error).message);
    }
  });
  return h(
    "div",
    {},
    h(
      "div",
      { class: "buttons" },
      saving("Report", () => [`${path}/report`, `${run}-report.html`]),
      saving("Model of the last final round", () => {
        const round = lastRound();
        if (round === null) throw new Error("No round is final yet, so there is no model.");
        return [`${path}/rounds/${round}/model`, `${run}-round-${round}.safetensors`];
      }),
    ),
    unfolded,
  );

  /** @param {string} text @param {() => [string, string]} what path and file name */
  function saving(text, what) {
    const button = h("button", { type: "button" }, text);
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        const [from, name] = what();
        const url = URL.createObjectURL(await (await app.api.open(from, { signal })).blob());
        h("a", { href: url, download: name }).click();
        setTimeout(() => URL.revokeObjectURL(url), 60_000);
      } catch (error) {
        if (!signal.aborted) warn(/** @type {Error} */ (error).message);
      } finally {
        button.disabled = false;
      }
    });
    return button;
  }
}
