"use strict";

const about = JSON.parse(document.getElementById("about").textContent);
const cards = [...document.querySelectorAll(".card")];
const filters = [...document.querySelectorAll("[data-filter]")];
const remembered = "condvae-audit-" + about.key;
const decisions = new Map();

/* An image may be on several cards, and has one decision; a file that can't be read has no index. */
const keyOf = (card) => (card.dataset.index === "-1" ? "file:" + card.dataset.file : card.dataset.index);

function decide(card, action) {
  const key = keyOf(card);
  const before = decisions.get(key);
  const choice = card.querySelector("select");
  const label = action === "relabel" ? choice.value : undefined;
  if (before && before.action === action && before.label === label) {
    decisions.delete(key);
  } else if (action !== "relabel" || label !== card.dataset.given) {
    decisions.set(key, {
      index: Number(card.dataset.index), file: card.dataset.file, given: card.dataset.given, action, label,
    });
  }
  remember();
  show();
}

function show() {
  let visible = 0;
  for (const card of cards) {
    const decision = decisions.get(keyOf(card));
    const action = decision ? decision.action : "";
    card.dataset.action = action;
    if (action === "relabel") card.querySelector("select").value = decision.label;
    for (const button of card.querySelectorAll("[data-do]")) {
      button.setAttribute("aria-pressed", String(button.dataset.do === action));
    }
    card.dataset.decided = action ? "yes" : "no";
    card.hidden = filters.some((filter) => filter.value && card.dataset[filter.dataset.filter] !== filter.value);
    if (!card.hidden) visible += 1;
  }
  document.getElementById("state").textContent =
    `${visible} of ${cards.length} shown, ${decisions.size} decided`;
}

function remember() {
  try {
    localStorage.setItem(remembered, JSON.stringify([...decisions]));
  } catch { /* a page opened from a file may have no storage: then the decisions last as long as it does */ }
}

function recall() {
  try {
    for (const [key, decision] of JSON.parse(localStorage.getItem(remembered) || "[]")) {
      if (cards.some((card) => keyOf(card) === key)) decisions.set(key, decision);
    }
  } catch { /* as above */ }
}

function save() {
  const whole = { ...about.decisions, decisions: [...decisions.values()] };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(whole, null, 1)], { type: "application/json" }));
  link.download = "decisions.json";
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/* The next card that is shown, from one that may just have been filtered out. */
function move(from, step) {
  let at = cards.indexOf(from) + step;
  while (cards[at] && cards[at].hidden) at += step;
  if (cards[at]) cards[at].focus();
}

function options(select, names, chosen) {
  for (const name of names) {
    const option = document.createElement("option");
    option.value = option.textContent = name;
    option.selected = name === chosen;
    select.append(option);
  }
}

for (const card of cards) {
  const select = card.querySelector("select");
  if (select) options(select, about.decisions.class_names, card.dataset.suggested);
  card.addEventListener("click", (event) => {
    const button = event.target.closest("[data-do]");
    if (button) decide(card, button.dataset.do);
  });
  card.addEventListener("keydown", (event) => {
    if (event.target !== card || event.ctrlKey || event.metaKey || event.altKey) return;
    const action = { k: "keep", r: "relabel", d: "drop" }[event.key];
    if (action && card.querySelector(`[data-do="${action}"]`)) {
      decide(card, action);
      if (card.hidden) move(card, 1);
    } else if (event.key === "ArrowRight" || event.key === "ArrowDown") move(card, 1);
    else if (event.key === "ArrowLeft" || event.key === "ArrowUp") move(card, -1);
    else return;
    event.preventDefault();
  });
}
for (const filter of filters) {
  if (filter.dataset.filter === "given" || filter.dataset.filter === "suggested") {
    options(filter, about.decisions.class_names, null);
  }
  filter.addEventListener("change", show);
}
document.getElementById("save").addEventListener("click", save);
recall();
show();
