// Keeps the picture of the cluster alive. Each message is the whole picture as the server would draw it on the page, so that
// nothing is missed by coming back late, and nothing is drawn in two ways.
"use strict";

const live = document.getElementById("live");
const connection = document.getElementById("connection");
const announcement = document.getElementById("announcement");

// A picture comes every second. A node that was frozen keeps the connection open and says nothing.
const SILENCE = 3000;
// nginx picks the node: the next try may well find the other one.
const AGAIN = 700;
// Streams end every 20 seconds by themselves; what comes back at once was never away.
const NOTICE = 1200;
let source;
let silence;
let notice;
let retry;

function lost() {
  source?.close();
  clearTimeout(silence);
  notice ??= setTimeout(() => {
    connection.textContent = "Connection lost, looking for another server …";
    connection.className = "connection lost";
    live.classList.add("stale");
  }, NOTICE);
  clearTimeout(retry);
  retry = setTimeout(connect, AGAIN);
}

function show(html) {
  live.innerHTML = html;
  clearTimeout(notice);
  notice = undefined;
  live.classList.remove("stale");
  const picture = live.firstElementChild;
  const said = `Live, as server ${picture.dataset.seenBy} sees it`;
  if (connection.textContent !== said) {
    connection.textContent = said;
    connection.className = "connection live";
  }
  // Read out when it changes, and not each second.
  const headline = picture.querySelector(".headline").textContent;
  if (announcement.textContent !== headline) announcement.textContent = headline;
}

function connect() {
  source = new EventSource("/api/cluster/events?as=html");
  silence = setTimeout(lost, SILENCE);
  source.addEventListener("picture", (event) => {
    clearTimeout(silence);
    silence = setTimeout(lost, SILENCE);
    show(event.data);
  });
  source.addEventListener("error", lost);
}

connect();
