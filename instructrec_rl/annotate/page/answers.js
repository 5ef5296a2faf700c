// How a question looks and how it is answered: one control for each kind, all with the same four functions.
// Every text from the data goes through textContent; nothing is ever parsed as HTML.

import { call } from "./outbox.js";

export const KINDS = {
  rate: { name: "Rate", tells: "Choose a number first." },
  compare: { name: "Compare", tells: "Choose the better response first, or skip." },
  rank: { name: "Rank", tells: "Put every response in order first, or skip." },
  correct: { name: "Correct", tells: "Say what the answer should have been first, or skip." },
  thumbs: { name: "Yes or no", tells: "Choose yes or no first." },
};
const LETTERS = "ABCDEFGH";
const ORDINALS = ["1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th"];
const MOST = 6; // attributes that a narrow screen shows at first; page.css hides those from the sixth on
const LONG = 80; // characters; a longer attribute is prose, and stands below

/** An element with text and attributes: make("p", "words", {class: "note"}, ...children). */
export function make(tag, text = "", attributes = {}, ...children) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

/** A row of radio buttons that look like one segmented control. */
export function segments(name, options, describe = {}) {
  const row = make("div", "", { class: "segment-row", ...describe });
  for (const { value, label, note, key } of options) {
    const id = `${name}-${value}`;
    const text = make("label", "", { for: id }, make("b", label));
    if (note) text.append(make("small", note));
    if (key) text.append(make("kbd", key, { "aria-hidden": "true" }));
    row.append(make("span", "", {}, make("input", "", { type: "radio", name, id, value }), text));
  }
  return row;
}

function words(value) {
  if (Array.isArray(value)) return value.map(words);
  if (value === true) return "yes";
  if (value === false) return "no";
  if (value === null || value === "") return "none";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** A response as a card: the item's name and attributes where it is an item, else its words. */
export function card(response, badge = "") {
  const node = document.getElementById("a-response").content.firstElementChild.cloneNode(true);
  const title = node.querySelector("h2");
  const item = response.item;
  node.querySelector(".badge").textContent = badge;
  node.querySelector(".badge").hidden = !badge;
  node.querySelector(".eyebrow").hidden = Boolean(badge);
  title.textContent = item ? item.name : "";
  title.hidden = !item;
  const pairs = Object.entries(item?.attributes ?? {}).map(([key, value]) => [key.replaceAll("_", " "), words(value)]);
  const short = pairs.filter(([, value]) => Array.isArray(value) || value.length <= LONG);
  const prose = pairs.filter(([, value]) => !Array.isArray(value) && value.length > LONG);
  const text = node.querySelector(".words");
  text.textContent = short.length && item ? "" : response.text;
  text.hidden = !text.textContent || (item && item.name === response.text);
  fillAttributes(node.querySelector("dl"), short);
  foldAttributes(node, short.length);
  const rest = node.querySelector(".rest");
  if (short.length && item) {
    for (const [key, value] of [...prose, ["as the policy writes it", response.text]]) {
      rest.lastElementChild.append(make("p", key, { class: "term" }), make("p", value));
    }
  } else {
    rest.remove();
  }
  return node;
}

/** Where there are many attributes, a narrow screen shows the first and a button for the others. */
function foldAttributes(node, count) {
  const button = node.querySelector("button.all");
  if (count <= MOST) { button.remove(); return; }
  button.hidden = false;
  button.addEventListener("click", () => show(!node.classList.contains("open")));
  function show(open) {
    node.classList.toggle("open", open);
    button.setAttribute("aria-expanded", String(open));
    button.textContent = open ? "Fewer" : `${count - MOST + 1} more`;
  }
  node.classList.add("folds");
  show(false);
}

function fillAttributes(list, pairs) {
  for (const [key, value] of pairs) {
    const told = make("dd");
    if (Array.isArray(value) && value.length) {
      told.append(make("ul", "", { class: "chips" }, ...value.map((each) => make("li", String(each)))));
    } else if (Array.isArray(value) || value === "none") {
      told.append(make("span", "none", { class: "none" }));
    } else {
      told.textContent = value;
    }
    list.append(make("div", "", {}, make("dt", key), told));
  }
  list.hidden = !pairs.length;
}

function radios(place, name) {
  const all = () => [...place.querySelectorAll(`input[name="${name}"]`)];
  return {
    get: () => all().find((input) => input.checked)?.value ?? null,
    set: (value) => all().forEach((input) => { input.checked = input.value === String(value); }),
    press: (digit) => {
      const input = all()[digit - 1];
      if (input) input.checked = true;
      return Boolean(input);
    },
  };
}

function choice(question, places, legend, options) {
  places.responses.append(card(question.responses[0]));
  const group = make("fieldset", "", { class: `segments ${question.mode}` }, make("legend", legend));
  group.append(segments("value", options));
  places.control.append(group);
  return radios(places.control, "value");
}

function rate(question, places) {
  const notes = ["Not at all", "Poorly", "Partly", "Well", "Perfectly"];
  const options = notes.map((note, i) => ({ value: i + 1, label: String(i + 1), note }));
  const control = choice(question, places, "How well does it answer the instruction?", options);
  return { ...control, value: () => Number(control.get()) || null };
}

function thumbs(question, places) {
  const control = choice(question, places, "Is it a good answer?", [
    { value: "yes", label: "Yes", key: "1" },
    { value: "no", label: "No", key: "2" },
  ]);
  return { ...control, value: () => (control.get() === null ? null : control.get() === "yes") };
}

function compare(question, places) {
  const grid = make("div", "", { class: "grid" });
  const options = question.responses.map((_, i) => ({ value: i, label: `${LETTERS[i]} is better`, key: String(i + 1) }));
  const group = segments("value", [...options, { value: "tie", label: "Neither is better", key: "3" }],
    { role: "radiogroup", "aria-label": "Which answers the instruction better?" });
  const inputs = [...group.querySelectorAll("input")];
  inputs[2].value = "-1";
  const nodes = question.responses.map((response, i) => {
    const node = card(response, LETTERS[i]);
    clickChooses(node, () => inputs[i].nextElementSibling.click());
    return node;
  });
  grid.append(...nodes);
  places.responses.append(grid);
  places.control.append(make("div", "", { class: "segments compare" }, group));
  const control = radios(places.control, "value");
  const paint = () => nodes.forEach((node, i) => node.classList.toggle("chosen", inputs[i].checked));
  group.addEventListener("change", paint);
  return {
    ...control,
    set: (value) => { control.set(value); paint(); },
    press: (digit) => { const chose = control.press(digit); paint(); return chose; },
    value: () => (control.get() === null ? null : Number(control.get())),
  };
}

/** Whether an event went through an element; by its path, as what was pressed may be gone from the page by now. */
function through(event, selector) {
  return event.composedPath().some((node) => node instanceof Element && node.matches(selector));
}

/** A click on the card itself chooses it; not one that opens its details or marks a text. */
function clickChooses(node, choose) {
  node.classList.add("pressable");
  node.addEventListener("click", (event) => {
    if (!through(event, "label, input, button, details") && !String(window.getSelection())) choose();
  });
}

function rank(question, places) {
  let order = [];
  const group = make("div", "", { class: "grid" });
  const told = make("p", "", { class: "note", role: "status" });
  const nodes = question.responses.map((response) => card(response, LETTERS[question.responses.indexOf(response)]));
  const buttons = nodes.map((node, i) => {
    const button = make("button", "", { type: "button" });
    button.addEventListener("click", () => toggle(i));
    clickChooses(node, () => toggle(i));
    return button;
  });
  const again = make("button", "Start over", { type: "button", class: "quiet" });
  again.addEventListener("click", () => { show([]); buttons[0].focus(); });
  group.append(...nodes);
  places.responses.append(group);
  places.control.append(make("div", "", { class: "ranking" }, told, again), make("div", "", { class: "places", role: "group", "aria-label": "Responses to put in order" }, ...buttons));

  function toggle(i) {
    const next = order.includes(i) ? order.filter((each) => each !== i) : [...order, i];
    // the last one's place is no choice
    const left = buttons.map((_, each) => each).filter((each) => !next.includes(each));
    show(!order.includes(i) && left.length === 1 ? [...next, left[0]] : next);
    places.control.dispatchEvent(new Event("change", { bubbles: true }));
  }
  function show(next) {
    order = next;
    buttons.forEach((button, i) => {
      const at = order.indexOf(i);
      const letter = LETTERS[i];
      button.setAttribute("aria-pressed", String(at >= 0));
      button.replaceChildren(
        make("b", letter),
        make("span", at >= 0 ? ORDINALS[at] : order.length ? "next" : "best"),
        make("kbd", String(i + 1), { "aria-hidden": "true" }),
      );
      const next = order.length ? `${letter} comes next` : `${letter} is the best`;
      button.setAttribute("aria-label", at >= 0 ? `${letter} is ${ORDINALS[at]}. Take it out of the order` : next);
      nodes[i].classList.toggle("chosen", at >= 0);
    });
    told.textContent = order.length === buttons.length
      ? `In order: ${order.map((i) => LETTERS[i]).join(", ")}.`
      : "Best first: press the responses in order.";
    again.hidden = !order.length;
  }
  show([]);
  return {
    get: () => order,
    set: (value) => show(Array.isArray(value) ? value.filter((i) => i in buttons) : []),
    press: (digit) => { if (!buttons[digit - 1]) return false; toggle(digit - 1); return true; },
    value: () => (order.length === buttons.length ? order : null),
  };
}

function correct(question, places) {
  places.responses.append(card(question.responses[0]));
  if (!question.choose) return rewrite(question, places);
  let chosen = null;
  const field = make("input", "", { type: "search", id: "find", maxlength: 500, autocomplete: "off", spellcheck: "false" });
  const told = make("p", "", { class: "note", role: "status" });
  const list = make("div", "", { class: "found", role: "radiogroup", "aria-label": "Items found" });
  places.control.append(
    make("label", "What should the answer have been?", { for: "find", class: "asks" }),
    field, told, list,
  );
  let asked = 0;
  async function find() {
    const mine = (asked += 1);
    try {
      const { items, total } = await call("api/items", { words: field.value, besides: question.responses[0].text });
      if (mine !== asked) return;
      const listed = chosen && !items.some((item) => item.text === chosen.text) ? [chosen, ...items] : items;
      list.replaceChildren(...listed.map(option));
      told.textContent = total > items.length
        ? `${items.length} of ${total} items; more words narrow it down.`
        : `${total} ${total === 1 ? "item" : "items"}.`;
    } catch (failure) {
      if (mine === asked) told.textContent = failure.message;
    }
  }
  function option(item, i) {
    const input = make("input", "", { type: "radio", name: "value", id: `value-${i}` });
    input.checked = chosen?.text === item.text;
    input.addEventListener("change", () => { chosen = item; });
    const label = make("label", "", { for: `value-${i}` }, make("b", item.name));
    if (item.text !== item.name) label.append(make("small", item.text));
    return make("div", "", { class: "option" }, input, label);
  }
  let typing = 0;
  field.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(find, 120); });
  field.addEventListener("keydown", (event) => { if (event.key === "Enter") event.preventDefault(); });
  find();
  return {
    get: () => ({ words: field.value, chosen }),
    set: (value) => { field.value = value?.words ?? ""; chosen = value?.chosen ?? null; find(); },
    press: () => false,
    value: () => chosen?.text ?? null,
    focus: () => field.focus(),
  };
}

function rewrite(question, places) {
  const field = make("textarea", "", { id: "rewritten", rows: 5, maxlength: 30000 });
  field.value = question.responses[0].text;
  places.control.append(make("label", "What should the answer have been?", { for: "rewritten", class: "asks" }), field);
  return {
    get: () => field.value,
    set: (value) => { if (typeof value === "string") field.value = value; },
    press: () => false,
    value: () => (field.value.trim() && field.value.trim() !== question.responses[0].text.trim() ? field.value.trim() : null),
    focus: () => field.focus(),
  };
}

/**
 * Show a question in {responses, control}. The control has get and set (what was begun, as JSON), press (a digit; true
 * where it chose something) and value (the answer, or null while there is none).
 */
export function showQuestion(question, places) {
  places.responses.replaceChildren();
  places.control.replaceChildren();
  places.control.dataset.mode = question.mode;
  places.responses.dataset.count = String(question.responses.length);
  return { rate, compare, rank, correct, thumbs }[question.mode](question, places);
}
