// The address of the page, which is its state.

/** @type {string | null} */
let known = null;

/** The path below which a proxy shows the pages; paths in the scripts are without it. */
const prefix = () => {
  if (known === null) {
    const config = document.getElementById("_dash-config");
    known = (config && JSON.parse(config.textContent || "{}").requests_pathname_prefix) || "/";
  }
  return /** @type {string} */ (known);
};

/** @param {string} path */
export const url = (path) => prefix() + path.replace(/^\//, "");

/** @param {string} text */
const plain = (text) => {
  try {
    return decodeURI(text);
  } catch {
    return text; // percent signs that encode nothing
  }
};

/** The path that the address names, without the prefix. */
export const pathname = () => {
  const [path, start] = [plain(window.location.pathname), plain(prefix())];
  return `${path}/`.startsWith(start) ? `/${path.slice(start.length)}` : path;
};

const params = () => new URLSearchParams(window.location.search);

/** @param {string} name */
export const param = (name) => params().get(name);

/**
 * A whole number in a text; null where there is none.
 * @param {string | null} text
 */
export const whole = (text) => (text !== null && /^\d+$/.test(text) ? Number(text) : null);

/** @param {string} name */
export const intParam = (name) => whole(param(name));

/**
 * Change the address. This does not ask the server for the page again.
 * @param {Record<string, string | number | null | undefined>} changes
 */
export const setParams = (changes) => {
  const changed = params();
  for (const [key, value] of Object.entries(changes)) {
    if (value === null || value === undefined) changed.delete(key);
    else changed.set(key, String(value));
  }
  const query = changed.toString();
  const address = window.location.pathname + (query ? `?${query}` : "");
  window.history.replaceState(null, "", address);
};
