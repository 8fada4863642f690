// Tries the schemes: logs in, refreshes ten times, and draws who answered and whether the login was there.
// Each scheme also has a page of its own that works without this file.
"use strict";

const TRIES = 10;
const cards = [...document.querySelectorAll("[data-scheme]")];
const buttons = [...document.querySelectorAll(".trial button")];

// As the pages of the nodes do it: each server always has the same colour.
const tone = (server) => [...server].reduce((sum, letter) => sum + letter.charCodeAt(0), 0) % 6;

async function ask(path, options) {
  const response = await fetch(path, { cache: "no-store", ...options });
  if (!response.ok) throw new Error(`${response.status}`);
  return response;
}

function mark(item, found) {
  item.className = found.server ? `tone-${tone(found.server)}` : "";
  item.classList.toggle("in", Boolean(found.account));
  item.classList.toggle("out", !found.account);
  item.textContent = found.server ?? "–";
  const state = document.createElement("span");
  state.textContent = found.account ? "✓" : "✗";
  const said = document.createElement("span");
  said.className = "unseen";
  said.textContent = found.account ? "logged in" : "not logged in";
  state.setAttribute("aria-hidden", "true");
  item.append(state, said);
}

function sentence(found) {
  const there = found.filter((one) => one.account).length;
  if (there === 0) return ["never", `Not logged in at any of ${found.length} refreshes.`];
  if (there === found.length) return ["kept", `Logged in at all ${there} refreshes.`];
  return ["lost", `The login was missing at ${found.length - there} of ${found.length} refreshes.`];
}

async function attempt(card, logIn) {
  const base = `/compare/${card.dataset.scheme}/`;
  const verdict = card.querySelector(".verdict");
  const items = [...card.querySelectorAll(".tries li")];
  for (const item of items) item.replaceChildren(), (item.className = "");
  verdict.className = "verdict";
  verdict.textContent = logIn ? "Logging in …" : "Refreshing …";
  // One scheme at a time, and one request after the other: what a person who refreshes would see.
  for (const button of buttons) button.disabled = true;
  try {
    if (logIn) await ask(`${base}login`, { method: "POST" });
    const found = [];
    for (const item of items) {
      let one;
      try {
        one = await (await ask(`${base}state`)).json();
      } catch {
        // No node, or no store: an answer without a login, as far as a visitor can tell.
        one = { server: null, account: null };
      }
      found.push(one);
      mark(item, one);
    }
    const [kind, text] = sentence(found);
    verdict.classList.add(kind);
    verdict.textContent = text;
  } catch (error) {
    verdict.classList.add("lost");
    verdict.textContent = `Could not log in (${error.message}). Try again.`;
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

for (const card of cards) {
  for (const [name, logIn] of [["try", true], ["again", false]]) {
    const button = card.querySelector(`button.${name}`);
    button.hidden = false;
    button.addEventListener("click", () => attempt(card, logIn));
  }
}
