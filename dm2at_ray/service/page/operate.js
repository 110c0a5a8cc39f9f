import { h } from "./dom.js";
import { confirmed } from "./dialog.js";
import { announce, warn } from "./notices.js";
import { counted } from "./words.js";

/** @typedef {import("./types.js").RunStatus} RunStatus */
/** @typedef {import("./types.js").RunState} RunState */

/** @type {RunState[]} */
const WORKING = ["submitted", "pending", "running", "awaiting_labels"];
/** @type {RunState[]} */
const RESUMABLE = ["paused", "stopped", "failed", "interrupted", "awaiting_labels"];
/** @type {RunState[]} */
const OVER = ["stopped", "done"];

/** What an operator does with a run. */
export class Operations {
  /**
   * @param {import("./types.js").App} app
   * @param {string} run
   * @param {AbortSignal} signal
   * @param {(status: RunStatus) => void} changed
   */
  constructor(app, run, signal, changed) {
    this.app = app;
    this.path = `runs/${encodeURIComponent(run)}`;
    this.signal = signal;
    this.changed = changed;
    this.pause = this.#button("Pause", () => this.#post("pause", "Paused"));
    this.resume = this.#button("Resume", () => this.#post("resume", "Resumed"));
    this.stop = this.#button("Stop …", () => this.#stop(run));
    this.accept = this.#button("Accept what is there …", () => this.#accept());
    this.element = h(
      "div",
      { class: "operations", role: "group", "aria-label": "Operate" },
      this.pause,
      this.resume,
      this.accept,
      this.stop,
    );
    this.stop.classList.add("danger");
  }

  /** @param {RunStatus} status */
  show(status) {
    const { state, awaiting } = status;
    this.pause.hidden = !WORKING.includes(state);
    this.resume.hidden = !RESUMABLE.includes(state) || !this.app.me.can_start_runs;
    this.stop.hidden = OVER.includes(state);
    this.accept.hidden =
      !awaiting || awaiting.accepted || awaiting.answered === 0 || awaiting.answered >= awaiting.needed;
  }

  /** @param {string} run */
  async #stop(run) {
    const text =
      "Its job is stopped and nobody is asked for labels any more. What is there stays: it can be resumed later.";
    if (await confirmed(`Stop ${run}?`, text, "Stop the run")) await this.#post("stop", "Stopped");
  }

  async #accept() {
    // What the page shows is up to some seconds old; here somebody decides by it.
    const status = await this.#ask(() => this.app.api.get(this.path, { signal: this.signal }));
    const round = status?.awaiting;
    if (!round) return;
    const missing = counted(round.asked - round.answered, "picture");
    const text =
      `The run goes on with ${counted(round.answered, "answer")} of ${round.asked} instead of the ` +
      `${round.needed} that it needs; ${missing} will not be labeled.`;
    if (!(await confirmed(`Accept round ${round.round} as it is?`, text, "Accept"))) return;
    await this.#post(`rounds/${round.round}/accept`, "Accepted");
  }

  /** @param {string} path @param {string} words */
  async #post(path, words) {
    const { api } = this.app;
    await this.#ask(async () => {
      const answer = await api.post(`${this.path}/${path}`, {}, { signal: this.signal });
      announce(words);
      return "state" in answer ? answer : api.get(this.path, { signal: this.signal });
    });
  }

  /**
   * Show where the run stands now; a failure is told.
   *
   * @param {() => Promise<RunStatus>} ask
   * @returns {Promise<RunStatus | null>}
   */
  async #ask(ask) {
    try {
      const status = await ask();
      this.changed(status);
      return status;
    } catch (error) {
      if (!this.signal.aborted) warn(/** @type {Error} */ (error).message);
      return null;
    }
  }

  /** @param {string} text @param {() => Promise<void>} act */
  #button(text, act) {
    const button = h("button", { type: "button" }, text);
    let isBusy = false;
    button.addEventListener("click", async () => {
      // Disabled, it would lose the focus that a dialog gives back to it.
      if (isBusy) return;
      isBusy = true;
      await act();
      isBusy = false;
    });
    return button;
  }
}
