// Types of the module that page.py makes.

/** Colours of numbers on both sides of zero, low to high. */
export const DIVERGING: Record<Theme, string[]>;
