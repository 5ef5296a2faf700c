// The flow of the page: a name, a question, an answer that is on disk before the page says so, the next question.

import { KINDS, make, segments, showQuestion } from "./answers.js";
import { call, callUntilAnswered, deliver, deliverLeftOver, kept, newId, tab } from "./outbox.js";

const $ = (id) => document.getElementById(id);
const THEMES = { "": "System", light: "Light", dark: "Dark" };
const state = { about: null, annotator: "", mode: "rate", question: null, control: null, last: null, busy: 0, turn: 0 };

function remember(key, value) { kept.set(`instructrec.${key}`, value); }
function recall(key) { return kept.get(`instructrec.${key}`) ?? ""; }

// Colours

function showTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  $("theme-name").textContent = THEMES[theme] ?? THEMES[""];
}
$("theme").addEventListener("click", () => {
  const order = Object.keys(THEMES);
  const theme = order[(order.indexOf(recall("theme")) + 1) % order.length];
  remember("theme", theme);
  showTheme(theme);
});

// What is told

function waiting(failure) {
  $("banner").textContent = `${failure.message} What you answered is kept in this browser and is sent again by itself.`;
  $("banner").hidden = false;
}
function connected() {
  $("banner").hidden = true;
  $("banner").textContent = "";
}
function tell(text, waits = false) {
  for (const id of ["saved", "empty-saved"]) {
    $(id).textContent = text;
    $(id).classList.toggle("waits", waits);
  }
}
function complain(text) { $("problem").textContent = text; }

/** The bar is what an annotator still has to do; what others did is told beside it. */
function showProgress({ you, all, target }) {
  $("counts").replaceChildren(make("b", String(you)), ` by you of ${target}, `, make("b", String(all)), " by all");
  $("mine").style.width = `${(100 * Math.min(you, target)) / Math.max(target, 1)}%`;
  $("meter").setAttribute("aria-valuemax", String(target));
  $("meter").setAttribute("aria-valuenow", String(Math.min(you, target)));
  $("meter").setAttribute("aria-valuetext", `${you} of ${target} answers by you, ${all} by all`);
}
function showLast(last) {
  state.last = last;
  for (const id of ["undo", "empty-undo"]) $(id).disabled = !last;
}

// Screens

function show(screen) {
  $("welcome").hidden = screen !== "welcome";
  $("work").hidden = screen === "welcome";
  $("question").hidden = screen !== "question";
  $("empty").hidden = screen !== "empty";
  $("who").hidden = screen === "welcome";
}

function askName() {
  show("welcome");
  const known = state.about.annotators.slice(0, 12);
  $("known").hidden = !known.length;
  $("known").replaceChildren(...known.map((name) => {
    const button = make("button", name, { type: "button" });
    button.addEventListener("click", () => begin(name));
    return button;
  }));
  $("name").value = state.annotator;
  $("welcome").querySelector("h1").focus();
}
$("welcome").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("name").value.normalize("NFC").trim();
  if (name) begin(name);
  else $("name").focus();
});
$("who").addEventListener("click", askName);

function begin(name) {
  state.annotator = name;
  remember("annotator", name);
  showName();
  next();
}

function showName() {
  $("who-name").textContent = state.annotator;
  $("who").disabled = Boolean(state.about.you); // the link says who it is
  $("who").setAttribute("aria-label", `Annotator: ${state.annotator}${state.about.you ? "" : ". Change"}`);
}

function showModes() {
  $("modes").append(segments("mode", state.about.modes.map((mode) => ({ value: mode, label: KINDS[mode].name }))));
  const saved = recall("mode");
  state.mode = state.about.modes.includes(saved) ? saved : state.about.modes[0];
  $(`mode-${state.mode}`).checked = true;
  $("modes").addEventListener("change", (event) => {
    state.mode = event.target.value;
    remember("mode", state.mode);
    tell("");
    next({ focus: false });
  });
}

// Questions

const DRAFT = "instructrec.draft";

/** Ask the server for the next question, or go on with the one that a reload interrupted. */
async function next({ skip = null, focus = true } = {}) {
  const wanted = { annotator: state.annotator, mode: state.mode, skip };
  const turn = (state.turn += 1);
  wait();
  try {
    const found = await callUntilAnswered("api/next", wanted, waiting);
    connected();
    if (turn !== state.turn) return; // another was asked for, or an answer is on its way
    showProgress(found.progress);
    showLast(found.last);
    present(found.question, focus);
  } catch (failure) {
    complain(failure.message);
  } finally {
    goOn();
  }
}

/** What is shown is on its way out: until the next question is there, no key and no button answers it. */
function wait() {
  state.busy += 1;
  $("question").setAttribute("aria-busy", "true");
}

function goOn() {
  state.busy -= 1;
  if (!state.busy) $("question").removeAttribute("aria-busy");
}

function present(question, focus = true, draft = null) {
  state.question = question;
  complain("");
  if (!question) {
    show("empty");
    tab.remove(DRAFT);
    if (focus) $("empty").querySelector("h1").focus();
    return;
  }
  show("question");
  $("instruction").textContent = question.instruction;
  state.control = showQuestion(question, { responses: $("responses"), control: $("control") });
  $("rationale").value = draft?.rationale ?? "";
  for (const input of $("confidence").querySelectorAll("input")) input.checked = input.value === (draft?.confidence ?? "");
  $("more").open = Boolean(draft?.rationale || draft?.confidence);
  if (draft) state.control.set(draft.value);
  keepDraft();
  if (focus) {
    $("asked-title").focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }
}

function confidence() { return $("confidence").querySelector("input:checked")?.value ?? ""; }

function keepDraft() {
  if (!state.question) return;
  const begun = { value: state.control.get(), rationale: $("rationale").value, confidence: confidence() };
  tab.set(DRAFT, JSON.stringify({ annotator: state.annotator, mode: state.mode, question: state.question, begun }));
}
$("question").addEventListener("input", keepDraft);
$("question").addEventListener("change", keepDraft);

/** The question that was open in this tab before a reload, with what was begun; null where there is none. */
function keptDraft() {
  try {
    const draft = JSON.parse(tab.get(DRAFT) ?? "null");
    const same = draft?.annotator === state.annotator && draft.mode === state.mode && draft.question.env === state.about.env;
    return same ? draft : null;
  } catch {
    return null;
  }
}

async function save() {
  if (state.busy || !state.question) return;
  const value = state.control.value();
  if (value === null) {
    complain(KINDS[state.question.mode].tells);
    return;
  }
  const { env, mode, instruction, responses } = state.question;
  const sure = confidence();
  await exchange("api/answer", {
    id: newId(), annotator: state.annotator, env, mode, instruction,
    responses: responses.map((response) => response.text),
    value, rationale: $("rationale").value.trim() || null, confidence: sure ? Number(sure) : null,
  }, "Saved.", () => next());
}

async function undo() {
  if (state.busy || !state.last) return;
  const body = { id: newId(), annotator: state.annotator, target: state.last };
  await exchange("api/undo", body, "Undone. Here it is again.", (reply) => {
    if (reply.question) {
      state.mode = reply.question.mode;
      remember("mode", state.mode);
      $(`mode-${state.mode}`).checked = true;
      return present(reply.question);
    }
    return next();
  });
}

/** Deliver a message; say that it is saved only when the server says that it is on disk. */
async function exchange(path, body, done, then) {
  wait();
  state.turn += 1;
  complain("");
  tell("Saving…");
  try {
    const reply = await deliver(path, body, (failure) => {
      tell("Not saved yet; trying again.", true);
      waiting(failure);
    });
    connected();
    tell(done);
    tab.remove(DRAFT);
    showProgress(reply.progress);
    showLast(reply.last);
    await then(reply);
  } catch (failure) {
    connected();
    tell("");
    complain(failure.message);
  } finally {
    goOn();
  }
}

async function skip() {
  if (state.busy || !state.question) return;
  tell("");
  await next({ skip: state.question.key });
  tell("Skipped.");
}

$("question").addEventListener("submit", (event) => { event.preventDefault(); save(); });
$("skip").addEventListener("click", skip);
$("undo").addEventListener("click", undo);
$("empty-undo").addEventListener("click", undo);

// Keys

const KEYS = [
  ["1 to 5", "Choose: a number, a response, or the next in order"],
  ["Enter", "Save and next (in a text: Ctrl and Enter)"],
  ["S", "Skip"],
  ["U", "Undo the last answer"],
  ["R", "Add a reason"],
  ["F", "Find an item (when correcting)"],
  ["?", "Show these keys"],
];
$("key-list").append(...KEYS.map(([key, what]) => make("tr", "", {}, make("th", "", { scope: "row" }, make("kbd", key)), make("td", what))));
$("show-keys").addEventListener("click", () => $("keys").showModal());
for (const [id, key, preset] of [["keys-on", "keys", "on"], ["at-once", "at-once", "off"]]) {
  $(id).checked = (recall(key) || preset) === "on";
  $(id).addEventListener("change", () => remember(key, $(id).checked ? "on" : "off"));
}

function saveAtOnce() {
  if ($("at-once").checked && state.control && state.control.value() !== null) save();
}
let byPointer = false; // arrow keys move between radio buttons, and must not save
document.addEventListener("pointerdown", () => { byPointer = true; }, true);
document.addEventListener("keydown", () => { byPointer = false; }, true);
$("question").addEventListener("change", (event) => {
  const chosen = event.target.name === "value" || event.target === $("control");
  if (chosen) complain("");
  if (byPointer && chosen && !state.control.focus) saveAtOnce();
});

document.addEventListener("keydown", (event) => {
  const writing = event.target.matches('textarea, input:not([type="radio"]):not([type="checkbox"])');
  const controlEnter = event.key === "Enter" && (event.ctrlKey || event.metaKey);
  if ($("keys").open || !$("welcome").hidden) return;
  if (controlEnter && !$("question").hidden) { event.preventDefault(); save(); return; }
  if (writing || event.ctrlKey || event.metaKey || event.altKey || !$("keys-on").checked) return;
  const key = event.key.toLowerCase();
  const act = {
    enter: event.target.matches("button, summary, a") ? null : save,
    s: skip, u: undo, "?": () => $("keys").showModal(),
    r: () => { $("more").open = true; $("rationale").focus(); },
    f: () => state.control?.focus?.(),
  }[key];
  if (act) { event.preventDefault(); act(); return; }
  if (/^[1-9]$/.test(key) && !state.busy && state.question && state.control.press(Number(key))) {
    event.preventDefault();
    keepDraft();
    saveAtOnce();
  }
});

// The marks stand above the buttons at the lower edge, however long the responses are.
new ResizeObserver(() => {
  $("question").style.setProperty("--actions", `${$("question").querySelector(".actions").offsetHeight}px`);
}).observe($("question").querySelector(".actions"));

// Start

async function start() {
  showTheme(recall("theme"));
  $("confidence").append(segments("confidence", [
    { value: "0.25", label: "Guessing" }, { value: "0.6", label: "Fairly sure" }, { value: "1", label: "Certain" },
  ]));
  try {
    state.about = await callUntilAnswered("api/about", {}, waiting);
  } catch (failure) {
    $("banner").hidden = false;
    $("banner").textContent = failure.message;
    return;
  }
  connected();
  $("env").textContent = state.about.env;
  document.title = `Annotate · ${state.about.env}`;
  $("where").textContent = `Answers are appended to ${state.about.out} on the machine that serves this page. Nothing leaves it.`;
  showModes();
  state.annotator = state.about.you || recall("annotator");
  showName();
  const mine = (body) => !state.about.you || body.annotator === state.about.you;
  const sent = await deliverLeftOver(mine, waiting, (reason) => { $("banner").hidden = false; $("banner").textContent = `An answer from before was refused: ${reason}`; });
  if (sent) connected();
  if (!state.annotator) { askName(); return; }
  const draft = keptDraft();
  if (!draft || sent) { await next(); if (sent) tell("Your last answer is saved now."); return; }
  const { progress, last } = await callUntilAnswered("api/progress", { annotator: state.annotator }, waiting);
  connected();
  showProgress(progress);
  showLast(last);
  present(draft.question, true, draft.begun);
}

start();
