/** How many classes have a digit of their own: 1 to 9, and 0 for the tenth. */
export const DIGITS = 10;

/**
 * The digit that stands for a place among the classes.
 *
 * @param {number} place from 0
 * @returns {string} empty from the eleventh on
 */
export function digitOf(place) {
  return place < DIGITS ? String((place + 1) % 10) : "";
}

/** @param {string} digit @returns {number} */
export function placeOf(digit) {
  return (Number(digit) + 9) % 10;
}

/**
 * A name as it is typed: small letters and digits, without accents.
 *
 * @param {string} name
 */
export function plain(name) {
  return name
    .normalize("NFD")
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]/gu, "");
}

/**
 * Whether digits are the names' own first letters, as in a set of handwritten digits: then 3 is "3", not the
 * third.
 *
 * @param {string[]} classes
 */
export function areNumbers(classes) {
  return classes.length > 0 && classes.every((name) => /^\p{N}/u.test(plain(name)));
}

/**
 * @param {string[]} classes
 * @param {string} typed plain
 * @returns {string[]} those that begin so
 */
export function beginning(classes, typed) {
  return classes.filter((name) => plain(name).startsWith(typed));
}

/**
 * @param {string[]} classes
 * @param {string} words as a person writes them
 * @returns {string[]} those that have them anywhere, those that begin with them first
 */
export function containing(classes, words) {
  const typed = plain(words);
  const first = beginning(classes, typed);
  const begins = new Set(first);
  return [...first, ...classes.filter((name) => !begins.has(name) && plain(name).includes(typed))];
}

/**
 * How many of a name's letters tell it from all others; all of them where it begins another name.
 *
 * @param {string[]} classes
 * @returns {Map<string, number>}
 */
export function lettersNeeded(classes) {
  const sorted = classes
    .map((name) => ({ name, text: plain(name) }))
    .sort((a, b) => (a.text < b.text ? -1 : 1));
  return new Map(
    sorted.map(({ name, text }, place) => {
      const near = [sorted[place - 1], sorted[place + 1]].filter((other) => other !== undefined);
      const common = Math.max(0, ...near.map((other) => sharedLetters(text, other.text)));
      return [name, Math.min(text.length, common + 1)];
    }),
  );
}

/** @param {string} one @param {string} other */
function sharedLetters(one, other) {
  let count = 0;
  while (count < one.length && one[count] === other[count]) count += 1;
  return count;
}

/**
 * Whether a key is meant for the page, not for what has the focus.
 *
 * @param {KeyboardEvent} event
 */
export function isForPage(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return false;
  if (document.querySelector("dialog[open]")) return false;
  const focus = /** @type {Element | null} */ (event.target instanceof Element ? event.target : null);
  if (focus?.closest("input:not([type=checkbox]), textarea, select, [contenteditable]")) return false;
  const presses = event.key === " " || event.key === "Enter";
  return !(presses && focus?.closest("button, a[href], summary, input"));
}
