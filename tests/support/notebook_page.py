"""A front end of notebooks in a few lines: a page that shows widgets of a running kernel.

Jupyter's own speaks the same messages: `comm_msg` with "update" and "custom", both ways.
"""

from __future__ import annotations

import time
from contextlib import contextmanager

import nbformat
from jupyter_client import BlockingKernelClient
from nbclient import NotebookClient

ADDRESS = "http://notebook.test/"
VIEW = "application/vnd.jupyter.widget-view+json"

SHOW = """
async ({ esm, state, id }) => {
  const source = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
  const { default: widget } = await import(source);
  const handlers = {};
  const fire = (event, given) => (handlers[event] || []).forEach((act) => act(given));
  let changed = {};
  const model = {
    get: (name) => state[name],
    set(name, value) {
      state[name] = value;
      changed[name] = value;
      fire(`change:${name}`);
    },
    save_changes() {
      window.toKernel(id, { method: "update", state: changed, buffer_paths: [] });
      changed = {};
    },
    send: (content) => window.toKernel(id, { method: "custom", content }),
    on: (event, act) => (handlers[event] ||= []).push(act),
  };
  window.fromKernel = ({ method, state: news, content }) => {
    if (method === "custom") return fire("msg:custom", content);
    for (const [name, value] of Object.entries(news || {})) {
      state[name] = value;
      fire(`change:${name}`);
    }
  };
  widget.render({ model, el: document.getElementById("cell") });
}
"""


class Notebook:
    """An executed notebook whose kernel still runs, and a page that shows one widget of it."""

    def __init__(self, client, kernel, tab):
        self._client, self._kernel, self._tab = client, kernel, tab
        self._shown = None
        tab.route(ADDRESS, lambda route: route.fulfill(body=PAGE, content_type="text/html"))
        tab.expose_function("toKernel", self._send)

    def _send(self, comm_id, data):
        message = self._kernel.session.msg("comm_msg", {"comm_id": comm_id, "data": data})
        self._kernel.shell_channel.send(message)

    def run(self, code):
        """Execute a further cell; the text of its last output."""
        cell = nbformat.v4.new_code_cell(code)
        self._client.nb.cells.append(cell)
        self._client.execute_cell(cell, len(self._client.nb.cells) - 1)
        return cell.outputs[-1]["data"]["text/plain"] if cell.outputs else ""

    def show(self, output):
        """Show the widget of an output on the page; the frame that it is in."""
        model = output["data"][VIEW]["model_id"]
        state = dict(self._client.widget_state[model])
        self._shown = model
        self._tab.goto(ADDRESS)
        self._tab.evaluate(SHOW, {"esm": state["_esm"], "state": state, "id": model})
        return self._tab.frame_locator("iframe")

    def until(self, condition, seconds=300):
        """Carry messages of the kernel to the page until a condition holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            self.carry()

    def carry(self):
        """Carry what the kernel has said to the page; the page is not held up meanwhile."""
        while self._kernel.iopub_channel.msg_ready():
            message = self._kernel.get_iopub_msg(timeout=1)
            content = message["content"]
            if message["msg_type"] == "comm_msg" and content["comm_id"] == self._shown:
                self._tab.evaluate("(data) => window.fromKernel(data)", content["data"])
        self._tab.wait_for_timeout(50)


PAGE = """<!DOCTYPE html><html lang="en"><title>A notebook</title>
<body data-jp-theme-light="true"><div id="cell"></div></body></html>"""


@contextmanager
def executed(cells, tab):
    """Execute the cells of a notebook; yields it, and the last output of each cell."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(notebook, timeout=300, kernel_name="python3")
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells[:]):
            client.execute_cell(cell, index)
        kernel = BlockingKernelClient(connection_file=client.km.connection_file)
        kernel.load_connection_file()
        kernel.start_channels()
        kernel.wait_for_ready(timeout=300)
        try:
            outputs = [cell.outputs[-1] if cell.outputs else {} for cell in notebook.cells]
            yield Notebook(client, kernel, tab), outputs
        finally:
            kernel.stop_channels()
