import { h } from "./dom.js";

const EXAMPLE = `# See: dm2at config
data:
  source: digits
query:
  oracle: files  # people label
  initial: 50
  size: 25
stop:
  rounds: 4
`;

/** The cluster is told of the run before the service answers. */
const START_MS = 120_000;

/**
 * The dialog to start a run in.
 *
 * @param {import("./types.js").App} app
 */
export function startDialog(app) {
  const name = h("input", {
    id: "start-name",
    required: true,
    maxlength: "100",
    pattern: "[A-Za-z0-9][A-Za-z0-9_\\-]*",
    autocomplete: "off",
    spellcheck: "false",
    "aria-describedby": "start-name-about",
  });
  const config = h("textarea", {
    id: "start-config",
    required: true,
    rows: "14",
    spellcheck: "false",
    "aria-describedby": "start-wrong",
  });
  config.value = EXAMPLE;
  const advance = h("input", { type: "checkbox", id: "start-advance" });
  advance.checked = true;
  const wrong = h("p", { id: "start-wrong", class: "wrong", role: "alert" });
  const start = h("button", { class: "primary" }, "Start");
  const cancel = h("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel");
  const form = h(
    "form",
    {},
    h("h2", { id: "start-title" }, "Start a run"),
    h("label", { for: "start-name" }, "Name"),
    name,
    h(
      "small",
      { id: "start-name-about" },
      "Letters, digits, - and _. A name that is there already, with the same config, is joined.",
    ),
    h("label", { for: "start-config" }, "Config (YAML)"),
    config,
    h(
      "div",
      { class: "switch" },
      advance,
      h("label", { for: "start-advance" }, "Go on by itself when a round has its labels"),
    ),
    wrong,
    h("div", { class: "buttons" }, cancel, start),
  );
  const dialog = h("dialog", { "aria-labelledby": "start-title", class: "start" }, form);
  dialog.addEventListener("close", () => dialog.remove());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    start.disabled = true;
    start.textContent = "Starting …";
    wrong.textContent = "";
    try {
      const wanted = { name: name.value, config: config.value, advance: advance.checked };
      await app.api.post("runs", wanted, { limit: START_MS });
      dialog.close();
      location.hash = `#/runs/${encodeURIComponent(name.value)}`;
    } catch (error) {
      wrong.textContent = /** @type {Error} */ (error).message;
    } finally {
      start.disabled = false;
      start.textContent = "Start";
    }
  });
  document.body.append(dialog);
  dialog.showModal();
}
