// The trace page of the dashboard: shows what the server says of the trace in each new frame.

import { clientside, quietly } from "../shared/dash.js";
import { server } from "../shared/host.js";
import { mount } from "./view.js";

clientside("trace", {
  mount: quietly((boot) => {
    const frame = document.getElementById("trace-app");
    if (frame && boot) mount(frame, boot, server);
  }),
});
