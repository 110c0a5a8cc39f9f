/**
 * @param {number} milliseconds
 * @param {AbortSignal} [signal] ends it at once, by an exception
 * @returns {Promise<void>}
 */
export function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}

/**
 * How long to wait after so many failures in a row: twice as long each time, up to 15 s, and never all at once.
 *
 * @param {number} failures from 1
 * @returns {number} milliseconds
 */
export function backoff(failures) {
  return Math.min(15_000, 500 * 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
}

/**
 * Wait until the page can be seen.
 *
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
export function visible(signal) {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve, reject) => {
    document.addEventListener("visibilitychange", () => resolve(), { once: true, signal });
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
