// The "keep refreshing" switch. Asks for the page once a second and shows what changed, as pressing "Refresh" would.
// Everything else on the page works without this file.
"use strict";

const button = document.getElementById("keep-refreshing");
const notice = document.getElementById("refresh-status");
const INTERVAL = 1000;
let timer;

async function refresh() {
  // Nobody looks: no need to count visits.
  if (document.hidden) return;
  try {
    const response = await fetch("/", { headers: { Accept: "text/html" }, cache: "no-store" });
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    // The session ended elsewhere: that page says so, and its forms are those of a visitor who is not logged in.
    if (page.getElementById("ended")) {
      turn(false);
      return document.getElementById("main").replaceWith(page.getElementById("main"));
    }
    const live = page.getElementById("live");
    if (!live) throw new Error("this is not the page");
    // Only this part: a form that somebody is filling in stays as it is.
    document.getElementById("live").replaceWith(live);
    document.title = page.title;
    notice.textContent = "";
  } catch (error) {
    // A server that is just being restarted, say. The next try may find another one.
    notice.textContent = `No page this time (${error.message}); trying again.`;
  }
}

async function loop() {
  await refresh();
  // Scheduled when the answer is there, so that a slow server is not asked twice at once.
  if (button.getAttribute("aria-checked") === "true") timer = setTimeout(loop, INTERVAL);
}

function turn(on) {
  clearTimeout(timer);
  button.setAttribute("aria-checked", String(on));
  if (on) timer = setTimeout(loop, INTERVAL);
  else notice.textContent = "";
}

button.hidden = false;
button.addEventListener("click", () => turn(button.getAttribute("aria-checked") !== "true"));
