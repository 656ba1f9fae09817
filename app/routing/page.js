// The routing page of the dashboard: shows what the server says of a run or a trace in each new frame.

import { clientside, quietly } from "../shared/dash.js";
import { go, server } from "../shared/host.js";
import { mount } from "./view.js";

clientside("routing", {
  mount: quietly((boot) => {
    const frame = document.getElementById("usage-app");
    if (frame && boot) mount(frame, boot, server);
  }),
  scope: quietly((run) => go(run ? `/routing?run=${encodeURIComponent(run)}` : "/routing")),
});
