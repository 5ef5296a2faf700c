// Talking to the server. An answer on its way lies in the browser's storage until the server says that it is on disk,
// so neither a lost connection nor a reload loses it. It keeps its id, and the server takes an id once.

const PLACE = "instructrec.outbox";
const WAITS_S = [1, 2, 4, 8, 10];

/** What the browser keeps: in memory only where it refuses (private windows, full storage). */
function keeper(area) {
  const memory = new Map();
  return {
    get(key) {
      try { return area().getItem(key) ?? memory.get(key) ?? null; } catch { return memory.get(key) ?? null; }
    },
    set(key, value) {
      memory.set(key, value);
      try { area().setItem(key, value); } catch { /* memory has it */ }
    },
    remove(key) {
      memory.delete(key);
      try { area().removeItem(key); } catch { /* it was never there */ }
    },
  };
}
export const kept = keeper(() => window.localStorage); // by every tab, for good
export const tab = keeper(() => window.sessionStorage); // by this tab, over a reload

/** A random id. crypto.randomUUID is missing where a page comes by plain http from another machine. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Why a request failed: `again` when the same request may succeed later. */
export class Failure extends Error {
  constructor(message, again, wait = 0) {
    super(message);
    this.again = again;
    this.wait = wait;
  }
}

/** POST a JSON body and return the JSON reply. Throws a Failure. */
export async function call(path, body) {
  let reply;
  try {
    reply = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body, (_, value) => value?.toWellFormed?.() ?? value), // half of a surrogate pair is refused
      signal: AbortSignal.timeout?.(20000),
    });
  } catch {
    throw new Failure("The server does not answer.", true);
  }
  const told = await reply.json().catch(() => ({}));
  if (reply.ok) return told;
  const reason = told.error ?? `The server answered ${reply.status}.`;
  const again = reply.status >= 500 || reply.status === 429 || reply.status === 401;
  throw new Failure(reason, again, Number(reply.headers.get("Retry-After")) || 0);
}

/** Call until the server answers or refuses for good; `waiting(failure)` is told of each try that failed. */
export async function callUntilAnswered(path, body, waiting) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await call(path, body);
    } catch (failure) {
      if (!failure.again) throw failure;
      waiting(failure);
      await pause(Math.max(failure.wait, WAITS_S[Math.min(tries, WAITS_S.length - 1)]));
    }
  }
}

/** A pause that ends early when the network comes back or the tab is looked at again. */
function pause(seconds) {
  return new Promise((resume) => {
    const done = () => {
      clearTimeout(timer);
      window.removeEventListener("online", done);
      document.removeEventListener("visibilitychange", done);
      resume();
    };
    const timer = setTimeout(done, seconds * 1000);
    window.addEventListener("online", done);
    document.addEventListener("visibilitychange", done);
  });
}

function waitingMessages() {
  try { return JSON.parse(kept.get(PLACE) ?? "{}"); } catch { return {}; }
}

/** Send what must not be lost: kept until the server has it on disk. */
export async function deliver(path, body, waiting) {
  kept.set(PLACE, JSON.stringify({ ...waitingMessages(), [body.id]: { path, body } }));
  try {
    return await callUntilAnswered(path, body, waiting);
  } finally { // taken, or refused for good: then the form still shows it
    const others = waitingMessages();
    delete others[body.id];
    kept.set(PLACE, JSON.stringify(others));
  }
}

/**
 * Send what an earlier page left behind, where `mine(body)`: what others answered in this browser waits for their own
 * link. Returns how many were taken; `refused(reason)` is told of those that were not.
 */
export async function deliverLeftOver(mine, waiting, refused) {
  let taken = 0;
  for (const { path, body } of Object.values(waitingMessages()).filter(({ body }) => mine(body))) {
    try {
      await deliver(path, body, waiting);
      taken += 1;
    } catch (failure) {
      refused(failure.message);
    }
  }
  return taken;
}
