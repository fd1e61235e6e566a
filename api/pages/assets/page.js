// Makes the pages live. What they show, the server draws; this script asks it for some parts of the same page again
// and puts the difference in place, node by node. No text ever becomes markup here, and the page's policy forbids it.

const main = document.querySelector("main");
const page = main.dataset.page;

// ---- Times: in the viewer's zone, exact UTC on hover.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });

function inWords(at, how) {
  const moment = new Date(at);
  if (how === "ago") {
    const seconds = (moment - Date.now()) / 1000;
    const units = [["day", 86400], ["hour", 3600], ["minute", 60]];
    const [unit, size] = units.find(([, size]) => seconds <= -size) ?? ["second", 1];
    return seconds > -1 ? "just now" : relative.format(Math.ceil(seconds / size), unit);
  }
  const today = moment.toDateString() === new Date().toDateString();
  return how === "clock" && today ? clock.format(moment) : full.format(moment);
}

function writeTimes(within = document) {
  for (const time of within.querySelectorAll("time[data-as]")) {
    const text = inWords(time.dateTime, time.dataset.as);
    if (time.textContent !== text) time.textContent = text;
  }
}

// ---- One document becomes like another.

function identity(node) {
  return node.nodeType === 1 ? node.id || node.dataset?.key || node.dataset?.part : undefined;
}

function become(old, fresh) {
  if (old.nodeType === 3) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  const kept = new Set(["style"]);
  if (old.localName === "details") kept.add("open"); // The viewer's choice.
  // What is being typed or dragged stays; a scrubber that is only focused follows the run.
  if (old.dataset?.keep && old === document.activeElement && (old.type !== "range" || held || scrubbing)) kept.add(old.dataset.keep);
  for (const { name, value } of fresh.attributes ?? []) {
    if (!kept.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...(old.attributes ?? [])]) {
    if (!kept.has(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  if (old.localName === "input" && !kept.has("value")) old.value = fresh.getAttribute("value") ?? "";
  if (old.localName === "time") return; // Written by this script, from its attributes.
  const byIdentity = new Map();
  for (const child of old.childNodes) if (identity(child)) byIdentity.set(identity(child), child);
  let place = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const same = byIdentity.get(identity(wanted));
    if (same) {
      if (same === place) place = place.nextSibling;
      else old.insertBefore(same, place);
      become(same, wanted);
    } else if (place && alike(place, wanted)) {
      const next = place.nextSibling;
      become(place, wanted);
      place = next;
    } else {
      old.insertBefore(document.importNode(wanted, true), place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
  if (old.localName === "select" && old !== document.activeElement) old.value = (old.querySelector("[selected]") ?? old.options[0]).value;
}

function alike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && !identity(one) && !identity(other);
}

// ---- Asking for parts of a page.

let asking; // The request under way; a later one takes its place. The proof takes long, and is asked for beside.

function fetchParts(address, parts) {
  if (parts !== "proof") asking?.abort();
  return new Promise((resolve, reject) => {
    // Not fetch: this reads the answer as a document by itself, and runs nothing in it.
    const request = new XMLHttpRequest();
    if (parts !== "proof") asking = request;
    const url = new URL(address, location.href);
    if (parts) url.searchParams.set("only", parts);
    request.open("GET", url);
    request.responseType = "document";
    request.onloadend = () => {
      if (asking === request) asking = undefined;
    };
    request.onload = () => {
      if (new URL(request.responseURL).pathname === "/login") location.assign("/login?next=" + encodeURIComponent(location.pathname + location.search));
      else if ((request.status === 200 || request.status === 400) && request.response?.querySelector("main[data-page]")) {
        request.response.address = request.responseURL;
        resolve(request.response);
      }
      else if (request.status >= 500 || request.status === 429) reject(new Error("unavailable"));
      else location.assign(address); // Gone, or not to be seen any more: let the server say so.
    };
    request.onerror = () => reject(new Error("unreachable"));
    request.onabort = () => reject(new DOMException("another request followed", "AbortError"));
    request.send();
  });
}

async function show(address, parts, untouched) {
  const fresh = await fetchParts(address, parts);
  const freshMain = fresh.querySelector("main");
  for (const { name, value } of freshMain.attributes) main.setAttribute(name, value);
  main.toggleAttribute("data-past", freshMain.hasAttribute("data-past"));
  for (const part of freshMain.querySelectorAll("[data-part]")) {
    const old = main.querySelector(`[data-part="${part.dataset.part}"]`);
    if (old && part.dataset.part !== untouched) become(old, part);
  }
  document.title = fresh.title || document.title;
  writeTimes();
  return fresh.address;
}

// ---- Going elsewhere within a page: the address changes, the page stays.

const STATE = "bar,tree,timeline,compare,explain";
const WHOLE = "head,bar,explain,chart,compare,tree,timeline,family";
const PARTS = { version: STATE, upto: "bar,timeline", explain: "bar,explain,compare,chart,tree,timeline", compare: "bar,compare,explain,tree,chart,timeline", chart: "chart,bar,explain,tree,timeline,compare", proof: "proof", list: "list" };

async function go(address, what, push = true) {
  const url = new URL(address, location.href);
  if (what !== "proof") {
    if (push) history.pushState(null, "", url);
    else history.replaceState(null, "", url);
  }
  try {
    const at = new URL(await show(url, PARTS[what]));
    if (what === "list") {
      at.searchParams.delete("only"); // The server has made the address of the form's fields.
      history.replaceState(null, "", at);
    }
    if (what === "version") moveMarker();
    if (what === "version" || what === "upto") showCurrent();
    if (what === "explain" || what === "compare") reveal(what);
    settled();
  } catch (error) {
    if (error.name !== "AbortError") reconnecting();
  }
}

// Where the timeline is a window of its own, it shows the version that is looked at.
function showCurrent() {
  const list = main.querySelector(".timeline");
  if (!list || list.scrollHeight <= list.clientHeight) return;
  const current = list.querySelector("[aria-current]");
  if (!current) return void (list.scrollTop = 0);
  const top = current.offsetTop - list.offsetTop;
  if (top < list.scrollTop || top + current.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top - list.clientHeight / 3;
}

function reveal(what) {
  const part = main.querySelector(`[data-part="${what}"]`);
  if (part?.firstElementChild && part.getBoundingClientRect().top < 0) part.scrollIntoView({ block: "start" });
  else if (part?.firstElementChild && part.getBoundingClientRect().top > innerHeight * 0.7) part.scrollIntoView({ block: "center" });
}

document.addEventListener("click", (event) => {
  const copy = event.target.closest("[data-copy]");
  if (copy) return copyText(copy);
  const link = event.target.closest("a[data-go]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go(link.href, link.dataset.go);
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "get" || !form.dataset.form) return;
  event.preventDefault();
  go(addressOf(form), form.dataset.form);
});

document.addEventListener("change", (event) => {
  const form = event.target.form;
  if (event.target.localName === "select" && event.target.name !== "operator" && form?.dataset.form) go(addressOf(form), form.dataset.form);
});

function addressOf(form) {
  const url = new URL(form.action);
  for (const [name, value] of new FormData(form)) if (value !== "") url.searchParams.append(name, value);
  return url;
}

addEventListener("popstate", () => show(location.href, page === "run" ? WHOLE : "list").then(moveMarker, () => {}));

async function copyText(button) {
  const text = button.dataset.copy;
  const label = button.querySelector("span");
  const before = label.textContent;
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else copyOldWay(text);
    label.textContent = "copied";
  } catch {
    label.textContent = "press Ctrl-C";
    copyOldWay(text);
  }
  setTimeout(() => (label.textContent = before), 1500);
}

function copyOldWay(text) {
  const field = document.body.appendChild(document.createElement("textarea"));
  field.value = text;
  field.select();
  document.execCommand("copy");
  field.remove();
}

// ---- The scrubber.

function scrubTo(version) {
  const last = Number(main.dataset.last);
  const url = new URL(location.href);
  url.searchParams.delete("upto");
  if (version >= last) url.searchParams.delete("version");
  else url.searchParams.set("version", version);
  main.dataset.version = version;
  moveMarker();
  scrubbing = url;
  if (!busy) scrub();
}

let scrubbing; // Where the scrubber stands, while the page is not there yet.
let busy = false;
let held = false; // The scrubber is being dragged, or was moved further than the page has come.

for (const [type, state] of [["pointerdown", true], ["pointerup", false], ["pointercancel", false]]) {
  document.addEventListener(type, (event) => (held = state && event.target.id === "scrub"));
}

async function scrub() {
  busy = true;
  while (scrubbing) {
    const url = scrubbing;
    scrubbing = undefined;
    await go(url, "version", false);
  }
  busy = false;
}

document.addEventListener("input", (event) => {
  if (event.target.id !== "scrub") return;
  const version = Number(event.target.value);
  event.target.setAttribute("aria-valuetext", `version ${version} of ${main.dataset.last}`);
  event.target.form.querySelector("output b").textContent = version.toLocaleString("en");
  scrubTo(version);
});

function moveMarker() {
  const chart = main.querySelector(".chart");
  if (!chart) return;
  const version = Number(main.dataset.version);
  const points = chart.dataset.points.split(" ").map((point) => point.split(":"));
  const at = points.findLast(([first]) => Number(first) <= version);
  const marker = chart.querySelector(".marker");
  marker.setAttribute("visibility", at ? "visible" : "hidden");
  if (!at) return;
  const [, x, y, label] = at;
  const line = marker.querySelector("line");
  for (const name of ["x1", "x2"]) line.setAttribute(name, `${x / 10}%`);
  marker.querySelector("circle").setAttribute("cx", `${x / 10}%`);
  marker.querySelector("circle").setAttribute("cy", `${y / 10}%`);
  main.querySelector(".axis .at").textContent = `${label.replaceAll("_", " ")} since version ${at[0]}`;
}

// ---- Live.

const connection = document.getElementById("connection");
let source;
let pending = false; // Something has happened that the page does not show yet.
let waiting; // Timer of the next look.
let lastCost = 0; // Milliseconds that the last look took.
let away = 0; // Failures in a row.

function say(state, text) {
  if (connection.dataset.state === state) return;
  connection.dataset.state = state;
  connection.textContent = text;
}

function settled() {
  away = 0;
  if (source && source.readyState === EventSource.OPEN) say("live", "live");
}

function reconnecting() {
  say("reconnecting", "reconnecting…");
  source?.close();
  source = undefined;
  away += 1;
  clearTimeout(waiting);
  waiting = setTimeout(comeBack, Math.min(500 * 2 ** (away - 1), 8000));
}

async function comeBack() {
  waiting = undefined;
  try {
    await look();
    follow();
  } catch (error) {
    if (error.name === "AbortError") waiting = setTimeout(comeBack, 200);
    else reconnecting();
  }
}

function follow() {
  if (document.hidden || source) return;
  const run = main.dataset.run;
  const address = run === undefined ? "/api/v1/events/live" : `/api/v1/runs/${encodeURIComponent(run)}/metadata/live?after=${main.dataset.last}`;
  const opened = (source = new EventSource(address));
  opened.onopen = () => {
    away = 0;
    say("live", "live");
    if (run === undefined) happened(); // The feed begins now; what came between the page and now is looked for.
  };
  opened.onmessage = happened;
  opened.onerror = () => {
    if (source !== opened) return;
    if (opened.readyState === EventSource.CLOSED && run === undefined && !refused) return probe();
    reconnecting();
  };
}

let refused = false; // The feed is not for this key: the list is looked at from time to time.

async function probe() {
  source = undefined;
  const answer = await fetch("/api/v1/events?limit=1").catch(() => undefined);
  if (answer?.status !== 403) return reconnecting();
  refused = true;
  say("live", "every few seconds");
  setInterval(() => document.hidden || happened(), 3000);
}

function happened() {
  pending = true;
  if (waiting) return;
  // Never more than a third of the time is spent on looking, however fast a run reports.
  waiting = setTimeout(async () => {
    waiting = undefined;
    if (!pending || document.hidden) return;
    if (busy || asking) return happened();
    try {
      await look();
      settled();
    } catch (error) {
      if (error.name === "AbortError") happened();
      else reconnecting();
    }
    if (pending) happened();
  }, Math.max(page === "run" ? 150 : 400, 2 * lastCost));
}

async function look() {
  pending = false;
  const begun = performance.now();
  // Who looks at the past is told that there is more, and keeps the rest as it is.
  const parts = page === "run" ? (main.hasAttribute("data-past") ? "head,bar,family" : WHOLE) : "list";
  await show(location.href, parts, "finder"); // Somebody may be typing there.
  lastCost = performance.now() - begun;
}

document.addEventListener("visibilitychange", () => {
  // A browser has few connections to one server, and a page that nobody sees needs none.
  if (refused) return;
  if (document.hidden) {
    source?.close();
    source = undefined;
    clearTimeout(waiting);
    waiting = undefined;
    say("paused", "paused");
  } else {
    clearTimeout(waiting);
    waiting = undefined;
    comeBack();
  }
});

const finder = main.querySelector(".finder");
if (finder && matchMedia("(min-width: 1000px)").matches) finder.open = true; // There is room for it.

writeTimes();
setInterval(writeTimes, 1000);
if (page) {
  follow();
  // Standing still is no event, and yet there comes a moment from which it is a stall.
  setInterval(() => source && !document.hidden && happened(), 30000);
  const proof = main.querySelector('a[data-go="proof"]');
  if (proof && Number(main.dataset.last) <= 20000) go(proof.href, "proof", false);
}
