// Small things every page uses: elements, typed arrays, the URL, fetching.
(function () {
  const rl = (window.ringlens = window.ringlens || {});

  // Make an element. Text always enters as textContent: nothing here ever parses HTML.
  rl.el = (tag, className, text, attributes) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined && text !== null) node.textContent = text;
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    return node;
  };

  rl.add = (parent, ...children) => {
    for (const child of children) if (child) parent.appendChild(child);
    return parent;
  };

  const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };
  rl.decode = (base64, type) => {
    const binary = atob(base64);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return new TYPES[type](bytes.buffer);
  };

  // The path below which a proxy shows the pages; paths in the scripts are without it.
  let prefix = null;
  rl.prefix = () => {
    if (prefix === null) {
      const config = document.getElementById("_dash-config");
      prefix = (config && JSON.parse(config.textContent).requests_pathname_prefix) || "/";
    }
    return prefix;
  };
  rl.url = (path) => rl.prefix() + path.replace(/^\//, "");
  const plain = (text) => {
    try {
      return decodeURI(text);
    } catch {
      return text; // percent signs that encode nothing
    }
  };
  rl.pathname = () => {
    const [path, start] = [plain(window.location.pathname), plain(rl.prefix())];
    return (path + "/").startsWith(start) ? "/" + path.slice(start.length) : path;
  };

  rl.fetch = async (path, options) => {
    let response;
    try {
      response = await fetch(rl.url(path), options);
    } catch (error) {
      throw new Error("The server does not answer. Is `ringlens app` still running?", {
        cause: error,
      });
    }
    const body = await response.json().catch(() => null);
    if (response.ok && body !== null) return body;
    throw new Error((body && body.error) || `The server answered ${response.status} to ${path}. Load the page again.`);
  };

  // The URL is the state. Writing it does not ask the server for the page again.
  rl.params = () => new URLSearchParams(window.location.search);
  rl.param = (name) => rl.params().get(name);
  rl.intParam = (name) => {
    const value = rl.param(name);
    return value !== null && /^\d+$/.test(value) ? Number(value) : null;
  };
  rl.setParams = (changes) => {
    const params = rl.params();
    for (const [key, value] of Object.entries(changes)) {
      if (value === null || value === undefined) params.delete(key);
      else params.set(key, value);
    }
    const query = params.toString();
    window.history.replaceState(null, "", window.location.pathname + (query ? "?" + query : ""));
  };

  rl.go = (href) => {
    window.history.pushState({}, "", rl.url(href));
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
  };

  // A link that opens in place, yet is a real link: middle click, copy address, screen readers.
  rl.link = (href, className, text) => {
    const node = rl.el("a", className, text, { href: rl.url(href) });
    node.addEventListener("click", (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return;
      event.preventDefault();
      event.stopPropagation();
      rl.go(href);
    });
    return node;
  };

  rl.number = (value, digits) =>
    Number.isFinite(value)
      ? value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−")
      : value > 0 ? "∞" : value < 0 ? "−∞" : "–";
  // A number, or that there is none: what was not recorded must not look like a zero.
  rl.numberOr = (value, digits, unit) =>
    Number.isNaN(value) ? "not recorded" : rl.number(value, digits) + (unit || "");
  rl.percent = (value) =>
    !Number.isFinite(value) ? "–" : (100 * value).toFixed(value >= 0.0995 ? 0 : 1) + "%";

  // A token's text with its blanks made visible.
  rl.visible = (text) =>
    text === "" ? "∅" : text.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥");

  rl.typing = (event) => {
    const node = event.target;
    return (
      event.metaKey || event.ctrlKey || event.altKey ||
      node.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName)
    );
  };

  // Size a canvas to its box in device pixels; returns its context in CSS pixels.
  rl.context = (canvas, width, height) => {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = height + "px";
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return context;
  };
})();
