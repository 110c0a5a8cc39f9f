import { Store } from "./storage.js";

const KEY = "dm2at.session";
const ANSWER_MS = 150;

/**
 * The name under which this tab holds leases: the same after a reload, another one in a duplicated tab, which
 * would otherwise be given the same pictures.
 *
 * @returns {Promise<string>}
 */
export async function tabSession() {
  const store = new Store("sessionStorage");
  const channel = new BroadcastChannel("dm2at.sessions");
  /** @type {string | null} */
  const before = store.read(KEY);
  const session = before !== null && !(await isTaken(channel, before)) ? before : newSession();
  store.write(KEY, session);
  channel.onmessage = ({ data }) => data.asks === session && channel.postMessage({ taken: session });
  return session;
}

/** @returns {string} of 128 random bits; crypto.randomUUID is missing where the page came by plain HTTP */
export function newSession() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {BroadcastChannel} channel
 * @param {string} session
 * @returns {Promise<boolean>} whether another tab answers to it
 */
function isTaken(channel, session) {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(false), ANSWER_MS);
    channel.onmessage = ({ data }) => {
      if (data.taken !== session) return;
      clearTimeout(timer);
      resolve(true);
    };
    channel.postMessage({ asks: session });
  });
}
