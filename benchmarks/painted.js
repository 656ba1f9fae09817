// Put into a page before its own scripts: when an input came, and when what it changed was painted.
(() => {
  const meter = { armed: false, started: 0, first: 0, painted: 0, pending: 0, bytes: 0, requests: 0 };
  window.__meter = meter;
  let waiting = false;
  let last = 0; // when something changed, or an answer came

  // A message posted in a frame's callback comes after the frame is laid out and painted.
  const changed = () => {
    last = performance.now();
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        waiting = false;
        last = meter.painted = performance.now();
        if (meter.started && !meter.first) meter.first = meter.painted;
      };
      port2.postMessage(0);
    });
  };
  // What a grid tells screen readers, 200 ms after it has drawn, is not to be seen.
  const seen = ({ target }) => {
    const node = target instanceof Element ? target : target.parentElement;
    return !node?.closest(".ag-aria-description-container");
  };
  const all = { subtree: true, childList: true, attributes: true, characterData: true };
  new MutationObserver((found) => found.some(seen) && changed()).observe(document, all);
  addEventListener("scroll", changed, true);
  const clear = CanvasRenderingContext2D.prototype.clearRect;
  CanvasRenderingContext2D.prototype.clearRect = function (...box) {
    changed();
    return clear.apply(this, box);
  };

  const plain = window.fetch;
  window.fetch = async (...asked) => {
    meter.pending++;
    try {
      const answer = await plain(...asked);
      const copy = answer.clone(); // its body comes later than its head
      copy.arrayBuffer().finally(() => {
        meter.pending--;
        last = performance.now();
      });
      return answer;
    } catch (error) {
      meter.pending--;
      throw error;
    }
  };
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      meter.bytes += entry.transferSize;
      meter.requests++;
    }
  }).observe({ type: "resource", buffered: true });

  for (const type of ["pointerdown", "keydown", "input", "change"]) {
    addEventListener(
      type,
      (event) => {
        if (!meter.armed) return;
        meter.armed = false;
        meter.started = last = event.timeStamp;
      },
      true,
    );
  }
  meter.arm = () => Object.assign(meter, { armed: true, started: 0, first: 0, painted: 0, bytes: 0, requests: 0 });

  /** Wait until nothing has changed for some milliseconds; resolves to what was measured. */
  meter.settled = (quiet) =>
    new Promise((resolve) => {
      const look = () => {
        const calm = !waiting && !meter.pending && performance.now() - last > quiet;
        if (!calm || meter.armed) return setTimeout(look, 10);
        const { started, first, painted, bytes, requests } = meter;
        const shown = painted >= started; // else it changed nothing
        resolve({
          first: shown ? first - started : null,
          painted: shown ? painted - started : null,
          bytes,
          requests,
        });
      };
      look();
    });

  /** Scroll a node down a step a frame; resolves to the milliseconds between frames, and of work in each. */
  meter.scrolled = (node, step, frames) =>
    new Promise((resolve) => {
      const [between, work] = [[], []];
      let before = 0;
      const frame = (now) => {
        if (before) between.push(now - before);
        before = now;
        if (between.length >= frames) return resolve({ between, work });
        const began = performance.now();
        node.scrollTop += step;
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = () => work.push(performance.now() - began);
        port2.postMessage(0);
        requestAnimationFrame(frame);
      };
      requestAnimationFrame(frame);
    });
})();
