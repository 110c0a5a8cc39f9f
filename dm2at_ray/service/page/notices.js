import { fill, h, part } from "./dom.js";

/**
 * Tell somebody who cannot see the page what has just happened.
 *
 * @param {string} text
 */
export function announce(text) {
  speak("polite", text);
}

/**
 * Show what went wrong until it is dismissed.
 *
 * @param {string} text
 * @param {{act?: string, go?: () => void}} [action] a button beside it
 */
export function warn(text, { act, go } = {}) {
  const notice = h(
    "div",
    { class: "notice" },
    h("p", {}, text),
    act && h("button", { on: { click: () => (notice.remove(), go?.()) } }, act),
    h("button", { "aria-label": "Dismiss this message", on: { click: () => notice.remove() } }, "×"),
  );
  // The same words again say nothing new.
  for (const shown of part("notices").children) {
    if (shown.querySelector("p")?.textContent === text) shown.remove();
  }
  part("notices").append(notice);
  speak("urgent", text);
}

/**
 * @param {string} region
 * @param {string} text
 */
function speak(region, text) {
  // A new element is read even where its words are those of the last one.
  fill(part(region), h("p", {}, text));
}
