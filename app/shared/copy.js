// Buttons that copy: what they name by data-copy goes to the clipboard.

import { hit } from "./dom.js";

document.addEventListener("click", (event) => {
  const copy = hit(event, "[data-copy]");
  if (!copy) return;
  navigator.clipboard.writeText(copy.dataset.copy || "").then(
    () => {
      copy.classList.add("done");
      setTimeout(() => copy.classList.remove("done"), 1200);
    },
    () => {},
  );
});
