// The widget in a notebook's page: a frame in the cell, in which the dashboard's scripts run. What
// they ask goes to the kernel, what is selected goes both ways.

/** @import { Given } from "./types.js" */

/**
 * The kernel's side of a widget, as anywidget has it.
 * @typedef {object} Model
 * @property {(name: string) => any} get
 * @property {(name: string, value: unknown) => void} set
 * @property {() => void} save_changes
 * @property {(message: unknown) => void} send
 * @property {(event: string, act: (message: any) => void) => void} on
 */

/** Whether the notebook is dark; null where it does not say. */
const isDark = () => {
  const { classList, dataset } = document.body;
  if (dataset.jpThemeLight) return dataset.jpThemeLight === "false"; // JupyterLab, Notebook
  if (classList.contains("vscode-light")) return false;
  return classList.contains("vscode-dark") || null;
};

/**
 * @param {Model} model
 * @returns {(path: string, options?: RequestInit) => Promise<any>} Asks the kernel for what lies at
 *   a path, or has it take what is sent there.
 */
function askerOf(model) {
  let last = 0;
  /** @type {Map<number, (body: any) => void>} */
  const waiting = new Map();
  model.on("msg:custom", (/** @type {{id: number, body: any}} */ answer) => {
    waiting.get(answer.id)?.(answer.body);
    waiting.delete(answer.id);
  });
  const from = Math.floor(Math.random() * 1e9); // several cells may show one widget
  return (path, options) =>
    new Promise((done, failed) => {
      const id = from + last++;
      waiting.set(id, (body) => (body.error ? failed(new Error(body.error)) : done(body)));
      const sent = typeof options?.body === "string" ? JSON.parse(options.body) : null;
      model.send({ id, path, sent });
    });
}

/**
 * Have the frame's document hold the scripts and style sheets of the dashboard.
 * @param {Document} page
 * @param {{first: string, style: string, modules: Record<string, string>, entry: string}} assets
 */
function load(page, { first, style, modules, entry }) {
  /**
   * @param {string} tag
   * @param {string} text
   * @param {Record<string, string>} [attributes]
   */
  const put = (tag, text, attributes = {}) => {
    const node = page.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = text;
    page.head.appendChild(node);
  };
  /** @type {Record<string, string>} */
  const imports = {};
  for (const [name, source] of Object.entries(modules)) {
    imports[name] = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  }
  put("style", style);
  put("script", first);
  put("script", JSON.stringify({ imports }), { type: "importmap" });
  put("script", `import "${entry}";`, { type: "module" });
}

/** @param {{model: Model, el: HTMLElement}} cell */
async function render({ model, el }) {
  const ask = askerOf(model);
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:100%;height:${model.get("height")}px;border:0;display:block`;
  frame.title = model.get("kind") === "trace" ? "A trace" : "Experts by layer";
  el.appendChild(frame);
  const assets = await ask("assets");
  const page = frame.contentDocument;
  if (!page) return; // the cell is gone already
  page.documentElement.lang = "en";
  let told = "";
  /** @type {Given} */
  const given = {
    kind: model.get("kind"),
    boot: model.get("boot"),
    selected: model.get("selected"),
    fetchJson: ask,
    choose(selected) {
      told = JSON.stringify(selected);
      model.set("selected", selected);
      model.save_changes();
    },
    onSelected(take) {
      model.on("change:selected", () => {
        const now = model.get("selected");
        if (JSON.stringify(now) !== told) take(now);
        told = "";
      });
    },
  };
  Object.assign(/** @type {any} */ (frame.contentWindow), { ringlensGiven: given });
  const dark = isDark();
  if (dark !== null) page.documentElement.dataset.mantineColorScheme = dark ? "dark" : "light";
  load(page, assets);
  model.on("change:height", () => {
    frame.style.height = `${model.get("height")}px`;
  });
}

export default { render };
