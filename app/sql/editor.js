// The query's text: a plain text area, with the same text in colours behind it.
(function () {
  const rl = (window.ringlens = window.ringlens || {});
  const WORDS = new Set(("all and any array as asc asof between by case cast columns cross desc describe distinct else end " +
    "except exclude exists false filter from full group having ilike in inner interval intersect into is join " +
    "lambda lateral left like limit natural not null nulls offset on or order outer over partition pivot positional " +
    "qualify recursive replace right rows sample select semi set show similar summarize table then true union " +
    "unnest unpivot using values when where window with").split(" "));
  const PIECES = /(--[^\n]*|\/\*[\s\S]*?(?:\*\/|$))|('(?:[^']|'')*'?)|("(?:[^"]|"")*"?)|(\b\d+(?:\.\d+)?(?:e[+-]?\d+)?\b)|([A-Za-z_]\w*)|([\s\S])/gi;

  // Fill `ink` with the query in colours; the letters are those of the text area, so they coincide.
  rl.colourSql = (ink, text) => {
    const parts = document.createDocumentFragment();
    const add = (kind, piece) => parts.appendChild(kind ? rl.el("span", kind, piece) : document.createTextNode(piece));
    for (const match of text.matchAll(PIECES)) {
      const [piece, comment, string, , number, word] = match;
      if (comment) add("c", piece);
      else if (string) add("s", piece);
      else if (number) add("n", piece);
      else if (word && WORDS.has(word.toLowerCase())) add("k", piece);
      else if (word && text[match.index + piece.length] === "(") add("f", piece);
      else add("", piece);
    }
    parts.appendChild(document.createTextNode("\n")); // a last empty line has a height, too
    ink.replaceChildren(parts);
  };

  // The editor in `box`; `changed` is told of every change.
  rl.sqlEditor = (box, text, changed) => {
    const ink = rl.el("pre", "sql-ink", null, { "aria-hidden": "true" });
    const area = rl.el("textarea", "sql-text", null, {
      id: "sql-text", "aria-label": "Query", spellcheck: "false", autocapitalize: "off", autocomplete: "off",
      placeholder: "select … from traces",
    });
    const follow = () => {
      rl.colourSql(ink, area.value);
      area.style.height = "auto";
      area.style.height = `${Math.min(Math.max(area.scrollHeight, 118), window.innerHeight * 0.4)}px`;
      ink.scrollTop = area.scrollTop;
      changed(area.value);
    };
    area.addEventListener("input", follow);
    area.addEventListener("scroll", () => {
      ink.scrollTop = area.scrollTop;
      ink.scrollLeft = area.scrollLeft;
    });
    area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.ctrlKey || event.metaKey || event.shiftKey) return;
      // A new line begins where the line before began.
      const line = area.value.slice(0, area.selectionStart).split("\n").pop();
      const indent = line.match(/^ */)[0];
      if (!indent) return;
      event.preventDefault();
      insert("\n" + indent);
    });
    // execCommand keeps the browser's own undo, which setRangeText would lose.
    const insert = (piece) => {
      area.focus();
      if (!document.execCommand("insertText", false, piece)) {
        area.setRangeText(piece, area.selectionStart, area.selectionEnd, "end");
        follow();
      }
    };
    const set = (value) => {
      area.focus();
      area.select();
      insert(value);
      area.setSelectionRange(value.length, value.length);
    };
    box.replaceChildren(ink, area);
    area.value = text;
    follow();
    return { area, insert, set };
  };
})();
