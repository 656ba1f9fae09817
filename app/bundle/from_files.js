// A bundle as a folder: reads its files from the web server that shows it.

import { start } from "./pages.js";

start(async (name) => {
  const response = await fetch(`${name}.json`);
  if (!response.ok) throw new Error(`The bundle lacks ${name} (${response.status}).`);
  return response.json();
});
