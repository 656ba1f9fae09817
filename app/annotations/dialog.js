// The dialog in which a person says something, corrects it, or retracts it.

import { add, el } from "../shared/dom.js";
import { messageOf } from "../shared/text.js";

/** @import { Host } from "../shared/host.js" */
/** @import { Answer, Said, Subject } from "./types.js" */

/** What one can choose to say something of: its name, and how a request names it. */
/** @typedef {{name: string, subject: Subject}} Choice */

const LABEL = 200; // characters; the store takes no more
const NOTE = 10_000;

let author = ""; // who wrote last in this tab

/**
 * A field with its name, which a click on the name enters.
 * @param {string} name
 * @param {HTMLElement} field
 */
const named = (name, field) =>
  add(el("label", "annotation-field"), el("span", "label", name), field);

/**
 * @param {Choice[]} choices
 */
function chooser(choices) {
  const box = el("fieldset", "annotation-about");
  box.appendChild(el("legend", "label", "About"));
  choices.forEach(({ name }, i) => {
    const radio = el("input", "", null, { type: "radio", name: "annotation-about", value: i });
    radio.checked = i === 0;
    add(box, add(el("label"), radio, el("span", "", name)));
  });
  return box;
}

/**
 * Open it.
 * @param {Host} host Takes what is written.
 * @param {Choice[]} choices What can be annotated, the likeliest first.
 * @param {Answer} answer Who writes, and whether anything can be written.
 * @param {Said | null} said What is corrected; null for something new.
 * @param {() => void} done Called when something was written.
 */
export function openDialog(host, choices, answer, said, done) {
  document.getElementById("annotate")?.remove();
  const title = said ? `What ${said.author} said` : "Annotate";
  const dialog = el("dialog", "annotate", null, { id: "annotate", "aria-label": title });
  const form = el("form", "annotation-form", null, { method: "dialog" });
  const label = el("input", "annotation-input", null, { type: "text", maxlength: LABEL });
  const note = el("textarea", "annotation-input", null, { rows: 5, maxlength: NOTE });
  const who = el("input", "annotation-input", null, { type: "text", maxlength: LABEL });
  who.required = true;
  label.value = said?.label || "";
  note.value = said?.note || "";
  who.value = author || answer.author;
  const state = el("p", "annotation-state", answer.refused, { role: "alert" });
  const save = el("button", "button annotation-save", said ? "Save correction" : "Save", {
    type: "submit",
  });
  const cancel = el("button", "button", "Cancel", { type: "button" });
  const retract = el("button", "button annotation-retract", "Retract", { type: "button" });
  cancel.addEventListener("click", () => dialog.close());
  const about = said ? el("p", "dim", choices[0].name) : chooser(choices);
  const buttons = [save, cancel, el("span", "spacer"), said ? retract : null];
  add(
    form,
    el("h2", "", title),
    about,
    named("Label", label),
    named("Note", note),
    named("Author", who),
    state,
    add(el("div", "buttons"), ...buttons),
  );
  for (const each of [label, note, who, save, retract]) each.disabled = answer.refused !== "";

  const chosen = () => {
    const radio = form.querySelector('input[type="radio"]:checked');
    return choices[radio instanceof HTMLInputElement ? Number(radio.value) : 0].subject;
  };

  /**
   * @param {string} path
   * @param {Record<string, unknown>} body
   */
  async function write(path, body) {
    state.textContent = "";
    for (const each of [save, retract]) each.disabled = true;
    author = who.value.trim();
    try {
      await host.fetchJson(`/data/annotations${path}`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ ...body, author }),
      });
      dialog.close();
      done();
    } catch (error) {
      state.textContent = messageOf(error);
    }
    for (const each of [save, retract]) each.disabled = false;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const about = said ? { supersedes: said.annotation_id } : chosen();
    write("", { ...about, label: label.value, note: note.value });
  });
  retract.addEventListener("click", () => {
    if (said) write("/retract", { annotation_id: said.annotation_id });
  });
  note.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.appendChild(dialog.appendChild(form).parentElement || dialog);
  dialog.showModal();
  label.focus();
}
