import { h } from "./dom.js";
import { Store } from "./storage.js";

const KEY = "dm2at.settings";

const DEFAULTS = {
  /** Whether the model's prediction is seen before it is asked for: it leads people. */
  prediction: false,
  neighbors: true,
  shortcuts: true,
  /** Whether small pictures are enlarged by whole pixels; else they are smoothed. */
  pixels: true,
  theme: "auto",
};

/** @type {[keyof typeof DEFAULTS, string, string][]} */
const SWITCHES = [
  [
    "prediction",
    "Show what the model predicts",
    "Off, nobody is led by it; each picture has a button for it.",
  ],
  [
    "neighbors",
    "Show the nearest labeled pictures",
    "They are near in the model's eyes, with the labels they have.",
  ],
  ["pixels", "Sharp pixels", "Small pictures are enlarged by whole pixels; off, they are smoothed."],
  ["shortcuts", "Label by keys", "Off, single keys do nothing; buttons and the Tab key work as ever."],
];

/** What a person has set on this browser. */
export class Settings extends EventTarget {
  #store = new Store("localStorage");
  #values = { ...DEFAULTS, ...this.#store.read(KEY) };

  /**
   * @template {keyof typeof DEFAULTS} K
   * @param {K} name
   * @returns {(typeof DEFAULTS)[K]}
   */
  get(name) {
    return this.#values[name];
  }

  /**
   * @template {keyof typeof DEFAULTS} K
   * @param {K} name
   * @param {(typeof DEFAULTS)[K]} value
   */
  set(name, value) {
    this.#values = { ...this.#values, [name]: value };
    this.#store.write(KEY, this.#values);
    if (name === "theme") showTheme(String(value));
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * The dialog to change them in.
 *
 * @param {Settings} settings
 */
export function settingsDialog(settings) {
  const dialog = h(
    "dialog",
    { "aria-labelledby": "settings-title", class: "settings" },
    h("h2", { id: "settings-title" }, "Settings"),
    SWITCHES.map(([name, title, about]) => settingSwitch(settings, name, title, about)),
    h(
      "label",
      { class: "field" },
      "Colours",
      h(
        "select",
        {
          name: "theme",
          on: { change: (/** @type {any} */ event) => settings.set("theme", event.target.value) },
        },
        ["auto", "light", "dark"].map((theme) =>
          h(
            "option",
            { value: theme, selected: settings.get("theme") === theme },
            theme === "auto" ? "as the system" : theme,
          ),
        ),
      ),
    ),
    h("form", { method: "dialog", class: "buttons" }, h("button", { class: "primary" }, "Close")),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/**
 * @param {Settings} settings
 * @param {keyof typeof DEFAULTS} name
 * @param {string} title
 * @param {string} about
 */
function settingSwitch(settings, name, title, about) {
  const box = h("input", {
    type: "checkbox",
    name,
    id: `setting-${name}`,
    "aria-describedby": `about-${name}`,
  });
  box.checked = Boolean(settings.get(name));
  box.addEventListener("change", () => settings.set(name, box.checked));
  return h(
    "div",
    { class: "switch" },
    box,
    h("label", { for: `setting-${name}` }, title),
    h("small", { id: `about-${name}` }, about),
  );
}

/** @param {string} theme */
function showTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}
