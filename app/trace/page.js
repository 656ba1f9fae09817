// The trace page of the dashboard: shows what the server says of the trace in each new frame.

import { clientside, quietly, setProps } from "../shared/dash.js";
import { typing } from "../shared/dom.js";
import { server } from "../shared/host.js";
import { mount } from "./view.js";

/** @type {import("./types.js").Boot | null} */
let shown = null;

clientside("trace", {
  mount: quietly((boot) => {
    const frame = document.getElementById("trace-app");
    shown = boot;
    if (frame && boot) mount(frame, boot, server);
  }),
});

// A running trace is asked for again when the store has grown, but not while somebody types.
window.addEventListener("ringlens:version", (event) => {
  if (!shown?.grows_at || !document.getElementById("trace-app")) return;
  const focus = document.activeElement;
  if (focus && typing(/** @type {any} */ ({ target: focus }))) return;
  const now = /** @type {CustomEvent<string>} */ (event).detail;
  if (now !== shown.grows_at)
    setProps("trace-growth", { data: { trace: shown.trace_id, version: now } });
});
