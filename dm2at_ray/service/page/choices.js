import { fill, h } from "./dom.js";
import { areNumbers, beginning, containing, digitOf, lettersNeeded, placeOf, plain } from "./keys.js";
import { announce } from "./notices.js";

/** More classes than these have a field to filter them by. */
const FEW = 20;
/** With more than these, those that are not meant are put away, not only dimmed. */
const STAY = 10;

/** The classes to choose from: by button, by digit, by their first letters, or by a filter. */
export class Choices {
  /** @type {Map<string, HTMLButtonElement>} */
  #buttons = new Map();
  #typed = "";
  /** @type {string[]} those that are meant by what was typed */
  #meant;
  #marked = 0;

  /**
   * @param {string[]} classes
   * @param {(label: string) => void} choose
   */
  constructor(classes, choose) {
    this.classes = classes;
    this.choose = choose;
    this.#meant = classes;
    this.hint = h("p", { class: "hint" });
    this.filter = h("input", {
      type: "search",
      id: "filter",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: `${classes.length} classes`,
      "aria-controls": "classes",
      on: {
        input: () => this.#filtered(),
        keydown: (/** @type {KeyboardEvent} */ event) => this.#filterKey(event),
      },
    });
    const letters = lettersNeeded(classes);
    for (const name of classes) this.#buttons.set(name, this.#button(name, letters.get(name) ?? 0));
    this.list = h("div", { class: "classes", id: "classes", role: "group", "aria-label": "Classes" });
    this.list.append(...this.#buttons.values());
    this.element = h(
      "div",
      { class: "choices", data: { many: classes.length > FEW ? "yes" : "no" } },
      classes.length > FEW &&
        h(
          "label",
          { class: "filter", for: "filter" },
          h("span", {}, "Filter"),
          this.filter,
          h("kbd", {}, "/"),
        ),
      this.list,
      this.hint,
    );
    this.#show();
  }

  /**
   * A digit or letter outside of any field.
   *
   * @param {string} key
   * @returns {boolean} whether it meant something
   */
  type(key) {
    const isDigit = /^[0-9]$/.test(key);
    if (isDigit && !areNumbers(this.classes)) {
      const name = this.#meant[placeOf(key)];
      const stays = this.classes.length <= STAY ? this.classes[placeOf(key)] : name;
      if (stays !== undefined) this.choose(stays);
      return stays !== undefined;
    }
    const letter = plain(key);
    if (!letter) return false;
    const meant = beginning(this.classes, this.#typed + letter);
    if (meant.length === 0) {
      this.#say(`No class begins with “${this.#typed + letter}”.`);
      return true;
    }
    this.#narrow(this.#typed + letter, meant);
    if (meant.length === 1) this.choose(meant[0]);
    return true;
  }

  /** @returns {boolean} whether there was something typed to take back a letter of */
  back() {
    if (!this.#typed) return false;
    const typed = this.#typed.slice(0, -1);
    if (typed) this.#narrow(typed, beginning(this.classes, typed));
    else this.clear();
    return true;
  }

  /** @returns {boolean} whether a marked class was chosen */
  enter() {
    if (this.#meant.length === this.classes.length || !this.#meant[this.#marked]) return false;
    this.choose(this.#meant[this.#marked]);
    return true;
  }

  /**
   * @param {1 | -1} step
   * @returns {boolean} whether there are several to go through
   */
  mark(step) {
    if (this.#meant.length === this.classes.length) return false;
    this.#marked = (this.#marked + step + this.#meant.length) % this.#meant.length;
    this.#show();
    announce(this.#meant[this.#marked]);
    return true;
  }

  /** Forget what was typed. */
  clear() {
    this.#typed = "";
    this.#meant = this.classes;
    this.#marked = 0;
    this.filter.value = "";
    fill(this.hint);
    this.#show();
  }

  /**
   * Show which class counts for the picture as now.
   *
   * @param {string | null | undefined} label undefined where nothing was said
   */
  press(label) {
    for (const [name, button] of this.#buttons) button.setAttribute("aria-pressed", String(name === label));
  }

  /** @param {boolean} isOff */
  disable(isOff) {
    this.list.classList.toggle("off", isOff);
    // Disabled buttons would lose the focus of whoever goes by keyboard.
    for (const button of this.#buttons.values()) button.setAttribute("aria-disabled", String(isOff));
  }

  /** @param {string} typed @param {string[]} meant */
  #narrow(typed, meant) {
    this.#typed = typed;
    this.#meant = meant;
    this.#marked = Math.max(
      0,
      meant.findIndex((name) => plain(name) === typed),
    );
    this.#show();
    const few = meant.slice(0, 6).join(", ") + (meant.length > 6 ? ` and ${meant.length - 6} more` : "");
    if (meant.length > 1) this.#say(`“${typed}”: ${few}. Next letter, arrows and Enter, or Escape.`);
  }

  #filtered() {
    this.#typed = "";
    this.#meant = containing(this.classes, this.filter.value);
    this.#marked = 0;
    this.#show();
    this.list.scrollTop = 0;
    this.#say(
      this.#meant.length === 0
        ? "No class has these letters."
        : `${this.#meant.length} of ${this.classes.length} classes`,
    );
    if (!plain(this.filter.value)) fill(this.hint);
  }

  /** @param {KeyboardEvent} event */
  #filterKey(event) {
    if (event.key === "Enter" && this.enter()) event.preventDefault();
    else if (event.key === "ArrowDown" && this.mark(1)) event.preventDefault();
    else if (event.key === "ArrowUp" && this.mark(-1)) event.preventDefault();
    else if (event.key === "Escape") {
      this.clear();
      this.filter.blur();
    }
  }

  #show() {
    const isNarrowed = this.#meant.length < this.classes.length;
    const isPutAway = isNarrowed && this.classes.length > STAY;
    const meant = new Set(this.#meant);
    const numbered = isPutAway ? this.#meant : this.classes;
    const digits = areNumbers(this.classes)
      ? new Map()
      : new Map(numbered.slice(0, 10).map((name, at) => [name, digitOf(at)]));
    for (const [name, button] of this.#buttons) {
      button.hidden = isPutAway && !meant.has(name);
      button.classList.toggle("dim", isNarrowed && !meant.has(name));
      button.classList.toggle("meant", isNarrowed && meant.has(name));
      button.classList.toggle("marked", isNarrowed && name === this.#meant[this.#marked]);
      const digit = digits.get(name) ?? "";
      const key = /** @type {HTMLElement} */ (button.firstElementChild);
      if (key.textContent === digit) continue;
      key.textContent = digit;
      if (digit) button.setAttribute("aria-keyshortcuts", digit);
      else button.removeAttribute("aria-keyshortcuts");
    }
    // What is meant stands in the order in which it is numbered.
    if (isPutAway)
      this.list.append(.../** @type {HTMLElement[]} */ (this.#meant.map((name) => this.#buttons.get(name))));
    else if (this.list.firstElementChild !== this.#buttons.get(this.classes[0]))
      this.list.append(...this.#buttons.values());
    if (isNarrowed) this.#buttons.get(this.#meant[this.#marked])?.scrollIntoView({ block: "nearest" });
  }

  /** @param {string} text */
  #say(text) {
    fill(this.hint, text);
    announce(text);
  }

  /** @param {string} name @param {number} letters */
  #button(name, letters) {
    const needed = letters <= 3 && !areNumbers(this.classes) ? endOf(name, letters) : 0;
    return h(
      "button",
      {
        type: "button",
        "aria-pressed": "false",
        data: { class: name },
        on: { click: () => this.choose(name) },
      },
      h("kbd", { "aria-hidden": "true" }),
      h("span", { class: "name" }, needed > 0 && h("u", {}, name.slice(0, needed)), name.slice(needed)),
    );
  }
}

/**
 * Where so many of a name's plain letters end.
 *
 * @param {string} name
 * @param {number} letters
 */
function endOf(name, letters) {
  let end = 0;
  while (end < name.length && plain(name.slice(0, end)).length < letters) end += 1;
  return end;
}
