// Types of the module that page.py makes.

/** Colours of differences, from the second selection's to the first's, low to high. */
export const DIVERGING: Record<Theme, string[]>;
