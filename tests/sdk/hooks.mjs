// The React hooks, in a document of jsdom. The process that plays these is a browser to everything in it from then on.

import { JSDOM } from "jsdom";

const { window } = new JSDOM("<!doctype html><div id='root'></div>", { url: "http://localhost/" });
Object.assign(globalThis, { window, document: window.document });
globalThis.navigator ??= window.navigator; // Node has one of its own since version 21.

const { createElement } = await import("react");
const { createRoot } = await import("react-dom/client");
const { useRealtimeRun, useRealtimeRunsWithTag } = await import("@trigger.dev/react-hooks");

/** Render a component, and say its text each time it changes, until it says `until`. */
async function render(component, until, say) {
  const place = document.getElementById("root");
  const root = createRoot(place);
  let observer;
  await new Promise((resolve) => {
    let last = "";
    const look = () => {
      if (place.textContent === last) return;
      last = place.textContent;
      say(last);
      if (last === until) resolve();
    };
    observer = new window.MutationObserver(look);
    observer.observe(place, { childList: true, characterData: true, subtree: true });
    root.render(createElement(component));
  });
  observer.disconnect();
  root.unmount();
}

/** A page that shows the progress of a run. */
export async function showRun({ url, token, run, until }, say) {
  const Page = () => {
    const { run: state, error } = useRealtimeRun(run, { baseURL: url, accessToken: token });
    return error ? `failed: ${error.message}` : `${state?.status ?? "-"} ${state?.metadata?.progress ?? "-"}`;
  };
  await render(Page, until, say);
}

/** A page that shows how many runs with a tag there are, and how many of them are done. */
export async function showTag({ url, token, tag, until }, say) {
  const Page = () => {
    const { runs, error } = useRealtimeRunsWithTag(tag, { baseURL: url, accessToken: token });
    const done = runs.filter((state) => state.status === "COMPLETED").length;
    return error ? `failed: ${error.message}` : `${done} of ${runs.length}`;
  };
  await render(Page, until, say);
}
