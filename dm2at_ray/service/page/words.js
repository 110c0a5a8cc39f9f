/** @type {Record<import("./types.js").RunState, string>} */
export const STATES = {
  submitted: "submitted",
  pending: "waiting for the cluster",
  running: "running",
  awaiting_labels: "awaits labels",
  paused: "paused",
  stopped: "stopped",
  done: "done",
  failed: "failed",
  interrupted: "interrupted",
};

/** What is said instead of a class where a person could not tell it. */
export const CANNOT_TELL = "cannot tell";

const NUMBERS = new Intl.NumberFormat("en", { maximumFractionDigits: 3 });

/** @param {number} value */
export function number(value) {
  return NUMBERS.format(value);
}

/**
 * A count with its noun: "1 answer", "2 answers".
 *
 * @param {number} count
 * @param {string} noun
 * @param {string} [plural]
 */
export function counted(count, noun, plural = `${noun}s`) {
  return `${number(count)} ${count === 1 ? noun : plural}`;
}

/** @param {string | null} label */
export function said(label) {
  return label ?? CANNOT_TELL;
}

/** @param {number} share of 1 */
export function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

/**
 * A moment as people read it: the time, with the day where it was another one.
 *
 * @param {string} time ISO 8601
 */
export function moment(time) {
  const then = new Date(time);
  const today = then.toDateString() === new Date().toDateString();
  return then.toLocaleString(
    undefined,
    today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" },
  );
}
