// A bundle as one file: reads the blocks of data that stand in the page.

import { start } from "./pages.js";

/** @type {Map<string, HTMLElement>} */
const blocks = new Map();
for (const node of document.querySelectorAll("script[data-name]")) {
  if (node instanceof HTMLElement) blocks.set(node.dataset.name || "", node);
}

start(async (name) => {
  const block = blocks.get(name);
  if (!block) throw new Error(`The bundle lacks ${name}.`);
  if (typeof DecompressionStream === "undefined") {
    throw new Error(
      "This browser cannot read compressed data: open the file in one of 2023 or later.",
    );
  }
  const bytes = Uint8Array.from(atob(block.textContent || ""), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
});
