// Texts of the page that are cut off, and boxes that are too wide. What ends in "…" may be cut, if
// its title tells the whole; what scrolls by itself in a table's body may be too.
() => {
  const found = [];
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) found.push(`the page is ${root.scrollWidth} wide`);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.textContent.trim() || !parent.checkVisibility({ visibilityProperty: true })) continue;
    if (parent.closest("script, style, .unseen, .sql-card pre, .sql-ink, .sql-grid, svg, .ag-cell, [class*=ag-aria]")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const { left, right, width } = range.getBoundingClientRect();
    if (!width) continue;
    for (let box = parent; box; box = box.parentElement) {
      const style = getComputedStyle(box);
      if (style.overflowX === "visible") continue;
      const { left: from, right: to } = box.getBoundingClientRect();
      if (left >= from - 1 && right <= to + 1) continue;
      if (style.textOverflow === "ellipsis" && box.closest("[title]")) break;
      found.push(`${box.className || box.tagName}: ${node.textContent.trim().slice(0, 60)}`);
      break;
    }
  }
  for (const grid of document.querySelectorAll(".traces-grid .ag-center-cols-viewport")) {
    if (grid.scrollWidth > grid.clientWidth) found.push(`the grid is ${grid.scrollWidth} wide`);
  }
  return found;
}
