import { Refusal } from "./api.js";
import { backoff, sleep, visible } from "./wait.js";

/** @typedef {import("./types.js").RunStatus} RunStatus */

/** The service says something every 15 s, if only a comment; after this long without it the line is dead. */
const SILENCE_MS = 40_000;

/**
 * Follow a run's status for as long as the page is looked at, over every break of the line.
 *
 * EventSource cannot send the token, so the stream is read by fetch.
 *
 * @param {import("./api.js").Api} api
 * @param {string} run
 * @param {(status: RunStatus) => void} changed
 * @param {(alive: boolean) => void} line is told when the line breaks, and when it is there again
 * @param {AbortSignal} signal ends it
 */
export async function followStatus(api, run, changed, line, signal) {
  let failures = 0;
  while (!signal.aborted) {
    try {
      await visible(signal);
      for await (const { event, data } of listenTo(api, `runs/${encodeURIComponent(run)}/events`, signal)) {
        failures = 0;
        line(true);
        if (event === "status") changed(JSON.parse(data));
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal && !error.passes) throw error;
    }
    // A hidden page hangs up by itself, which is no failure.
    if (signal.aborted || document.hidden) continue;
    failures += 1;
    if (failures > 1) line(false);
    await sleep(backoff(failures), signal).catch(() => {});
  }
}

/**
 * The events of one connection. A hidden page gives its connection up: browsers allow only few to a host.
 *
 * @param {import("./api.js").Api} api
 * @param {string} path
 * @param {AbortSignal} signal
 */
async function* listenTo(api, path, signal) {
  const hangUp = new AbortController();
  const both = AbortSignal.any([signal, hangUp.signal]);
  document.addEventListener("visibilitychange", () => document.hidden && hangUp.abort(), { signal: both });
  let watch = setTimeout(() => hangUp.abort(), SILENCE_MS);
  try {
    const response = await api.open(path, { signal: both });
    if (!response.body) return;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(watch);
      watch = setTimeout(() => hangUp.abort(), SILENCE_MS);
      const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = blocks.pop() ?? "";
      yield* blocks.map(parse).filter((found) => found !== null);
    }
  } finally {
    clearTimeout(watch);
    hangUp.abort();
  }
}

/**
 * @param {string} block lines of one event
 * @returns {{event: string, data: string} | null} null for a comment
 */
export function parse(block) {
  let event = "message";
  /** @type {string[]} */
  const data = [];
  for (const line of block.split("\n")) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line) ?? ["", "", ""];
    if (field === "event") event = value;
    if (field === "data") data.push(value);
  }
  return data.length ? { event, data: data.join("\n") } : null;
}
