// What is typed into "Go to": L36 E179, 36 179, 36/179; a layer or an expert alone keeps the other.

/** @import { Shape } from "./zoom.js" */

const BOTH = /^\s*L?\s*(\d+)\s*(?:[\s,;/·.:|-]\s*E?|E)\s*(\d+)\s*$/i;
const TURNED = /^\s*E\s*(\d+)\s*[\s,;/·.:|-]?\s*L\s*(\d+)\s*$/i;
const LAYER = /^\s*L\s*(\d+)\s*$/i;
const EXPERT = /^\s*E\s*(\d+)\s*$/i;

/**
 * Read it. Throws an error that says what is wrong.
 * @param {string} text
 * @param {Shape} shape
 * @param {{L: number, E: number | null}} now
 * @returns {{L: number, E: number | null}}
 */
export function target(text, shape, now) {
  const both = BOTH.exec(text);
  const turned = TURNED.exec(text);
  const [layer, expert] = both
    ? [both[1], both[2]]
    : turned
      ? [turned[2], turned[1]]
      : [LAYER.exec(text)?.[1], EXPERT.exec(text)?.[1]];
  if (layer === undefined && expert === undefined) {
    throw new Error("Write a layer and an expert: L36 E179, 36 179 or 36/179.");
  }
  const found = {
    L: layer === undefined ? now.L : Number(layer),
    E: expert === undefined ? now.E : Number(expert),
  };
  const { layers, experts } = shape;
  if (!layers.includes(found.L)) {
    const [first, last] = [layers[0], layers[layers.length - 1]];
    throw new Error(`Layer ${found.L} has no experts: layers ${first} to ${last} do.`);
  }
  if (found.E !== null && found.E >= experts) {
    throw new Error(`There is no expert ${found.E}: a layer has 0 to ${experts - 1}.`);
  }
  return found;
}
