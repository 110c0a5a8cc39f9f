import { Api, Refusal, Unreachable } from "./api.js";
import { confirmed } from "./dialog.js";
import { disagreementsView } from "./disagreements.js";
import { fill, h, part } from "./dom.js";
import { labelingView } from "./labeling.js";
import { askForToken } from "./login.js";
import { announce, warn } from "./notices.js";
import { Outbox } from "./outbox.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { tabSession } from "./session.js";
import { Settings, settingsDialog } from "./settings.js";
import { backoff, sleep } from "./wait.js";
import { counted, said } from "./words.js";

/** @typedef {import("./types.js").App} App */
/** @typedef {(app: App, signal: AbortSignal, ...names: string[]) => Promise<HTMLElement>} View */

/** @type {[RegExp, View, string][]} */
const VIEWS = [
  [/^#\/runs\/([^/]+)\/label$/, labelingView, "label"],
  [/^#\/runs\/([^/]+)\/disagreements$/, disagreementsView, "disagreements"],
  [/^#\/runs\/([^/]+)$/, runView, "overview"],
];
const ROLES = { read: "may look", label: "may label", operate: "operator" };

const settings = new Settings();
const api = new Api(new URL("api/v1/", document.baseURI).href, ask);
/** @type {App | null} */
let app = null;
let leaving = new AbortController();

/**
 * Get a token from the person; who comes as somebody else begins anew.
 *
 * @param {boolean} again
 */
async function ask(again) {
  const { token, me } = await askForToken(api, again);
  if (app && (me.name !== app.me.name || me.role !== app.me.role)) {
    api.keepToken(token);
    location.reload();
    await new Promise(() => {});
  }
  return token;
}

async function begin() {
  part("main").setAttribute("aria-busy", "true");
  const me = await patiently(() => api.get("me"), new AbortController().signal);
  const session = await tabSession();
  const outbox = new Outbox(api, session, me.name);
  app = { api, me, outbox, settings, session };
  showTools(app);
  showOutbox(app);
  addEventListener("hashchange", () => open());
  await open();
}

/** Show what the address names. */
async function open() {
  if (!app) return;
  const isFirst = leaving.signal.aborted === false && !part("main").dataset.view;
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [view, title, names] = viewOf(location.hash);
  document.title = [...names, title, "dm2at-ray"].filter(Boolean).join(" · ");
  const main = part("main");
  main.dataset.view = title || "runs";
  main.setAttribute("aria-busy", "true");
  const shown = app;
  try {
    fill(main, await patiently(() => view(shown, signal, ...names), signal));
  } catch (error) {
    if (signal.aborted) return;
    fill(main, failure(/** @type {Error} */ (error)));
  }
  main.setAttribute("aria-busy", "false");
  if (!isFirst) /** @type {HTMLElement | null} */ (main.querySelector("h1"))?.focus();
  scrollTo(0, 0);
}

/** @param {string} hash @returns {[View, string, string[]]} */
function viewOf(hash) {
  for (const [pattern, view, title] of VIEWS) {
    const found = pattern.exec(hash);
    if (found) return [view, title, found.slice(1).map((name) => safelyDecoded(name))];
  }
  return [runsView, "", []];
}

/** @param {string} text */
function safelyDecoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/**
 * Try until the service answers.
 *
 * @template T
 * @param {() => Promise<T>} act
 * @param {AbortSignal} signal
 * @returns {Promise<T>}
 */
async function patiently(act, signal) {
  for (let failures = 1; ; failures++) {
    try {
      return await act();
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof Unreachable)) throw error;
      const text = "It is asked again by itself until it does.";
      if (failures === 1)
        fill(
          part("main"),
          h("div", { class: "empty" }, h("h1", { tabindex: "-1" }, error.message), h("p", {}, text)),
        );
      await sleep(backoff(failures), signal);
    }
  }
}

/** @param {Error} error */
function failure(error) {
  const title = error instanceof Refusal ? error.problem.title : "This page has a defect";
  if (!(error instanceof Refusal)) console.error(error);
  return h(
    "div",
    { class: "empty" },
    h("h1", { tabindex: "-1" }, title ?? "That did not work"),
    h("p", { role: "alert" }, error.message),
    h("p", {}, h("a", { href: "#/" }, "All runs")),
  );
}

/** @param {App} app */
function showTools({ me, outbox }) {
  fill(part("who"), me.name, h("span", {}, ROLES[me.role]));
  fill(
    part("tools"),
    h("button", { type: "button", on: { click: () => settingsDialog(settings) } }, "Settings"),
    api.hasToken && h("button", { type: "button", on: { click: () => logOut(outbox) } }, "Log out"),
  );
}

/** @param {Outbox} outbox */
async function logOut(outbox) {
  const count = outbox.waiting.length;
  const text = `${counted(count, "answer")} of yours could not be sent yet. They stay in this browser until you log in here again.`;
  if (count > 0 && !(await confirmed("Log out?", text, "Log out"))) return;
  // Ends the view first, so that it gives its leases back with the token that they are held by.
  leaving.abort();
  api.keepToken(null);
  location.hash = "#/";
  location.reload();
}

/** @param {App} app */
function showOutbox({ outbox }) {
  const bar = part("unsent");
  const text = h("p", {});
  const again = h("button", { type: "button", on: { click: () => outbox.tryNow() } }, "Try now");
  fill(bar, text, again);
  let wasTroubled = false;
  function show() {
    const { waiting, others, trouble } = outbox;
    document.body.dataset.unsent = String(waiting.length);
    const isTroubled = trouble !== null && waiting.length > 0;
    const names = [...new Set(others.map((entry) => entry.who))].join(", ");
    const one = waiting.length === 1;
    const kept = outbox.isKept
      ? `${one ? "It is" : "They are"} kept in this browser and sent as soon as it can be.`
      : "This browser keeps nothing: leave this page open.";
    const left = `${counted(others.length, "answer")} of ${names} ${others.length === 1 ? "waits" : "wait"}`;
    const words = isTroubled
      ? `${counted(waiting.length, "answer")} not sent yet: ${trouble} ${kept}`
      : others.length > 0
        ? `${left} in this browser until ${names} logs in here.`
        : "";
    bar.hidden = !words;
    text.textContent = words;
    again.hidden = !isTroubled;
    if (isTroubled !== wasTroubled) announce(isTroubled ? words : "All answers are sent.");
    wasTroubled = isTroubled;
  }
  outbox.addEventListener("change", show);
  outbox.addEventListener("refused", (event) => {
    const { entry, why } = /** @type {CustomEvent} */ (event).detail;
    warn(`“${said(entry.label)}” for sample ${entry.sample_id} of ${entry.run} was refused: ${why}`);
  });
  addEventListener("beforeunload", (event) => outbox.waiting.length > 0 && event.preventDefault());
  show();
}

const skip = /** @type {HTMLElement} */ (document.querySelector("a.skip"));
skip.addEventListener("click", (event) => (event.preventDefault(), part("main").focus()));
begin().catch((error) => fill(part("main"), failure(error)));
