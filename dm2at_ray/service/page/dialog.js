import { h } from "./dom.js";

let dialogs = 0;

/**
 * Ask before something that cannot simply be undone.
 *
 * @param {string} title a question
 * @param {string} text what will happen
 * @param {string} act the button's words
 * @returns {Promise<boolean>}
 */
export function confirmed(title, text, act) {
  const id = `dialog-${++dialogs}`;
  const dialog = h(
    "dialog",
    { "aria-labelledby": id, "aria-describedby": `${id}-text` },
    h("h2", { id }, title),
    h("p", { id: `${id}-text` }, text),
    h(
      "form",
      { method: "dialog", class: "buttons" },
      h("button", { value: "no" }, "Cancel"),
      h("button", { value: "yes", class: "primary" }, act),
    ),
  );
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes");
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
